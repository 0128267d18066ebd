"""Calls about all shards: whoever is asked asks the owners of what it doesn't own. One that doesn't answer fails the call: never half."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from coordinator.errors import Unavailable
from coordinator.rpc import peer_auth
from coordinator.rpc.owners import moved

if TYPE_CHECKING:
    from coordinator.cluster.directory import Owner
    from coordinator.rpc.owners import Owners
    from coordinator.rpc.peer_auth import PeerAuth
    from coordinator.rpc.peers import Peer

Answer = TypeVar("Answer", bound=Message)
TIMEOUT_S = 5.0  # for another coordinator's answer, where the caller would wait longer


class Others:
    """The other coordinators, for calls about all shards.

    Args:
        owners: finds them.
        auth: signs.
    """

    def __init__(self, *, owners: Owners, auth: PeerAuth) -> None:
        self._owners = owners
        self._auth = auth

    def ours(self) -> frozenset[int]:
        """The shards that the call is about here: those that its sender thinks are ours, or else those that are.

        Raises:
            Unavailable: its sender thinks of one that isn't.
        """
        directory = self._owners.directory
        said = peer_auth.forwarded.get()
        if said is None or said.shards is None:
            return frozenset(shard for shard in range(directory.shards) if directory.is_mine(shard))
        for shard in said.shards:
            if not directory.is_mine(shard):
                raise moved(shard, directory.owner_of(shard))
        return said.shards

    async def ask(self, method: str, request: Message, response: type[Answer], context: Any) -> list[Answer]:
        """What the others answer, each for its shards; nothing when the call comes from one of them.

        Args:
            method: its full name.
            request: what each is asked.
            response: the class of an answer.
            context: of the call.

        Raises:
            Unavailable: one of them doesn't answer.
        """
        if peer_auth.forwarded.get() is not None:
            return []
        until_s = self._owners.patience_ends_s()
        theirs: dict[Peer, tuple[Owner, list[int]]] = {}
        shards: dict[Peer, list[int]] = defaultdict(list)
        for shard in range(self._owners.directory.shards):
            reached = await self._owners.reach(shard, until_s)
            if reached is not None:
                owner, peer = reached
                shards[peer].append(shard)
                theirs[peer] = owner, shards[peer]
        left_s = context.time_remaining()
        timeout_s = TIMEOUT_S if left_s is None else min(TIMEOUT_S, left_s)
        blob = request.SerializeToString()

        async def ask_one(peer: Peer, owner: Owner, its: list[int]) -> Answer:
            metadata = self._auth.sign(method, namespace="", caller=context.peer(), shards=its)
            try:
                answer: bytes = await peer.unary(method)(blob, timeout=timeout_s, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                raise Unavailable(
                    f"coordinator {owner.coordinator_id!r} at {owner.address}, which owns {len(its)} shards, doesn't answer "
                    f"({error.code().name}: {error.details()}): try again",
                    reason="SHARD_UNAVAILABLE",
                ) from None
            return response.FromString(answer)

        return await asyncio.gather(*(ask_one(peer, owner, its) for peer, (owner, its) in theirs.items()))
