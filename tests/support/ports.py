"""Free loopback ports, for programs that can't bind port 0 and say which one they got."""

import socket


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listened on a moment ago. Prefer port 0 wherever the program can report its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
