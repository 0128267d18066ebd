"""The `muster` command line. It knows the SDK's client and the protos; the coordinator's code is another program to it."""
