"""The gRPC services: thin, one file each. They turn messages into commands, and what the engine releases into messages."""
