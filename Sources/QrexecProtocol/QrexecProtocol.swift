// The wire.
