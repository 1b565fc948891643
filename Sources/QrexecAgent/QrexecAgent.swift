// The qube's side.
