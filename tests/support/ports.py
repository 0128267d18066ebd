"""Free loopback ports, for programs that can't bind port 0 and say which one they got."""

import random
import socket

_LOWEST, _HIGHEST = 20_000, 32_000  # below those that systems give out themselves: a port that is free for a moment stays free
_random = random.SystemRandom()  # tests that run at once, and have the same seed, must not choose alike


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listened on a moment ago, and that nobody gets by chance.

    For a server that is ended and started again on its port. Prefer port 0 wherever a program that starts once can report its port.
    """
    while True:
        port = _random.randrange(_LOWEST, _HIGHEST)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
