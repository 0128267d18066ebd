"""The pure core: what a command changes, and why. No I/O, no clock, no randomness, no protos."""
