// dom0's side.
