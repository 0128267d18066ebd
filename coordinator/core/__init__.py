"""The pure core: decides what happens to tasks. No I/O, no clock, no randomness, no protos."""
