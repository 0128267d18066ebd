"""Finds the shard and the namespace that a call is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio

from coordinator.cluster.directory import Directory
from coordinator.engine.namespace import Namespace
from coordinator.engine.shard import DEFAULT_NAMESPACE, Shard
from coordinator.errors import InvalidRequest, NotFound
from coordinator.rpc import peer_auth
from coordinator.rpc.peer_auth import NAMESPACE_KEY

MAX_SHOWN_CHARS = 128


class Shards:
    """All shards that this coordinator owns.

    Args:
        shards: by number.
        shard_of: the number of a namespace's shard.
        directory: who owns what.
    """

    def __init__(self, *, shards: Sequence[Shard], shard_of: Callable[[str], int], directory: Directory) -> None:
        self.all = shards
        self._directory = directory
        self._shard_of = shard_of

    def of(self, namespace: str) -> Shard:
        """The shard that a namespace lives in, or would live in."""
        return self.all[self._shard_of(namespace)]

    def owner_address(self, shard: Shard) -> str:
        """Where the call that is being handled had better go the next time: to us, if it came by another coordinator; empty: as it did."""
        owner = self._directory.owner_of(shard.number)
        return owner.address if owner is not None and peer_auth.forwarded.get() is not None else ""

    def called(self, context: grpc.aio.ServicerContext[Any, Any]) -> tuple[Shard, Namespace]:
        """The shard and the namespace that a call's metadata names.

        Raises:
            InvalidRequest: it names several.
            NotFound: the namespace doesn't exist.
            Unavailable: its shard isn't served now.
        """
        names = [value for key, value in context.invocation_metadata() or () if key == NAMESPACE_KEY] or [DEFAULT_NAMESPACE]
        if len(names) > 1:
            raise InvalidRequest(f"the call names {len(names)} namespaces: send {NAMESPACE_KEY} once", field=NAMESPACE_KEY)
        name = names[0] if isinstance(names[0], str) else names[0].decode(errors="replace")
        if len(name) > MAX_SHOWN_CHARS:  # a status must fit into the few kilobytes of a call's trailing metadata
            raise NotFound(f"namespace {name[:MAX_SHOWN_CHARS]!r}… doesn't exist: names are at most 63 long", reason="NAMESPACE_NOT_FOUND")
        shard = self.of(name)
        return shard, shard.namespace(name)
