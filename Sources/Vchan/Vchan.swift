// The vchan transport.
