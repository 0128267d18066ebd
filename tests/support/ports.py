"""Free loopback ports, for programs that can't bind port 0 and say which one they got."""

import contextlib
import itertools
import os
import socket
from pathlib import Path

_FIRST_LASTING = 10_000
_numbers = itertools.count()


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


def lasting_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on, and that no outgoing connection is given: for what is killed and started again."""
    try:
        stop = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        stop = 32768
    span = stop - _FIRST_LASTING
    start = os.getpid() * 97  # so that two runs on one machine don't ask for the same
    for port in (_FIRST_LASTING + (start + number) % span for number in itertools.islice(_numbers, span)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port is free below those of outgoing connections")
