// Services on top.
