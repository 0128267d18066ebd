"""What a coordinator is called, and where others reach it."""

from __future__ import annotations

import socket

_ANY = ("0.0.0.0", "::", "[::]", "")  # noqa: S104 - to tell it, not to listen there


def address_of(listen: str, *, port: int, advertised: str | None) -> str:
    """Where others reach a coordinator that is bound to `listen`, as host:port: as it was told, or there.

    Args:
        listen: as configured; its port may be 0.
        port: the one that it got.
        advertised: as configured.
    """
    host = listen.rpartition(":")[0]
    return advertised or f"{socket.gethostname() if host in _ANY else host}:{port}"


def id_of(listen: str, *, advertised: str | None, given: str | None, nonce: str) -> str:
    """A coordinator's id: as it was told, or its address, which stays the same over restarts, or else by chance.

    Args:
        listen: as configured.
        advertised: as configured.
        given: as configured.
        nonce: makes it differ from others'.
    """
    port = int(listen.rpartition(":")[2])
    if given:
        return given
    if advertised or port:
        return address_of(listen, port=port, advertised=advertised)
    return f"{socket.gethostname()}-{nonce[:8]}"


def host_name() -> str:
    """This machine's."""
    return socket.gethostname()
