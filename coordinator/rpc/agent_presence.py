"""Writes into shared state which agents are connected: the key `agents/NAME/presence`, for anybody to read and to watch.

Keys end with a lease that this coordinator keeps alive. So an agent that left while no coordinator ran is gone some time after the next one
has started, and one that is back by then was never gone. What can't be written now is written later: only the latest is of interest.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

from coordinator.convert_state_out import author_out
from coordinator.errors import MusterError, Unavailable
from coordinator.state.model import Command, Delete, GrantLease, KeepLease, Origin, Outcome, Put, Transaction, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.core.load_map import Agent
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard
    from coordinator.state.engine import Header, StateEngine

log = logging.getLogger(__name__)

LEASE_S = 30.0
RETRY_S = 1.0
MAX_LEASE_KEYS = 5_000  # agents: half of what may end with one lease
CONTENT_TYPE = "application/json"
AUTHOR = author_out(client_name="coordinator")


def presence_key(agent_name: str) -> str:
    """Where an agent's presence is."""
    return f"agents/{agent_name}/presence"


def presence_of(agent: Agent) -> bytes:
    """What is told of a connected agent."""
    return json.dumps(
        {
            "capabilities": sorted(agent.capabilities),
            "labels": dict(agent.labels),
            "max_concurrent_tasks": agent.capacity,
            "sdk": agent.sdk,
            "since_time_ms": agent.since_ms,
        },
        ensure_ascii=False,
    ).encode()


class AgentPresence:
    """The agents that are connected to this coordinator, as shared state has them.

    Args:
        engines: of the shards, by number.
        lease_s: how long presence outlives this coordinator.
        retry_s: how long to wait after a write that could not be made.
    """

    def __init__(self, *, engines: Sequence[StateEngine], lease_s: float = LEASE_S, retry_s: float = RETRY_S) -> None:
        self._engines = engines
        self._lease_s = lease_s
        self._retry_s = retry_s
        self._corners: dict[str, _Corner] = {}  # by namespace
        self._wake = asyncio.Event()

    def came(self, shard: Shard, namespace: Namespace, agent: Agent) -> None:
        """An agent's session has begun, in place of any that it had."""
        corner = self._corners.get(namespace.name)
        if corner is None:
            corner = _Corner(namespace.name, shard, self._engines[shard.number], round(self._lease_s * 1000))
            self._corners[namespace.name] = corner
        corner.sessions[agent.name] = agent.session
        corner.dirty[agent.name] = presence_of(agent)
        self._wake.set()

    def left(self, namespace: Namespace, agent_name: str, session: str) -> None:
        """A session has ended. Nothing, if the agent has a newer one."""
        corner = self._corners.get(namespace.name)
        if corner is not None and corner.sessions.get(agent_name) == session:
            del corner.sessions[agent_name]
            corner.dirty[agent_name] = None
            self._wake.set()

    @property
    def namespaces(self) -> list[str]:
        """Those whose agents are told of."""
        return list(self._corners)

    async def run(self) -> None:
        """Writes what has changed, and keeps the leases alive, until cancelled."""
        loop = asyncio.get_running_loop()
        keep_at_s = loop.time() + self._lease_s / 3
        while True:
            try:
                async with asyncio.timeout_at(keep_at_s):
                    await self._wake.wait()
            except TimeoutError:
                keep_at_s = loop.time() + self._lease_s / 3
                await asyncio.gather(*(corner.keep() for corner in self._corners.values()))
            self._wake.clear()
            changed = [corner for corner in self._corners.values() if corner.dirty]
            await asyncio.gather(*(corner.write() for corner in changed))
            for corner in changed:
                # The namespace was deleted, or somebody else's by now, or will be made anew.
                if not corner.shard.serving or corner.shard.deleted.get(corner.namespace, corner) is not corner:
                    del self._corners[corner.namespace]
            if any(corner.dirty for corner in self._corners.values()):
                await asyncio.sleep(self._retry_s)
                self._wake.set()


class _Corner:
    """One namespace's agents."""

    def __init__(self, namespace: str, shard: Shard, engine: StateEngine, lease_ms: int) -> None:
        self.namespace = namespace
        self.shard = shard
        self.sessions: dict[str, str] = {}  # of connected agents
        self.dirty: dict[str, bytes | None] = {}  # what is to be written: a presence, or that there is none
        self._engine = engine
        self._lease_ms = lease_ms
        self._leases: dict[int, dict[str, bytes]] = {}  # which agents end with which, and what is told of them

    async def write(self) -> None:
        """Writes what has changed. What can't be written now stays dirty."""
        taken, self.dirty = self.dirty, {}
        writes = []
        try:
            for name, value in taken.items():
                for held in self._leases.values():
                    held.pop(name, None)
                if value is None:
                    writes.append((name, 0, self._ask(_transaction(Delete(presence_key(name))))))
                    continue
                lease_id = await self._lease_with_room()
                self._leases[lease_id][name] = value
                put = Put(presence_key(name), value, CONTENT_TYPE, lease_id)
                writes.append((name, lease_id, self._ask(_transaction(put))))
        except Unavailable:
            self.dirty = taken | self.dirty  # those that are under way are written twice, which harms nobody
        for (name, lease_id, _), verdict in zip(
            writes, await asyncio.gather(*(answer for _, _, answer in writes), return_exceptions=True), strict=True
        ):
            if isinstance(verdict, Unavailable):
                self.dirty.setdefault(name, taken[name])
            elif isinstance(verdict, BaseException) or verdict.outcome not in (Outcome.DONE, Outcome.LEASE_NOT_FOUND):
                log.warning("presence.refused namespace=%s agent=%s verdict=%s", self.namespace, name, verdict)
            elif verdict.outcome is Outcome.LEASE_NOT_FOUND:
                self._lost(lease_id)

    async def keep(self) -> None:
        """A sign of life of each lease that an agent's presence ends with."""
        for lease_id, held in list(self._leases.items()):
            if not held:
                del self._leases[lease_id]
                continue
            try:
                verdict = await self._ask(KeepLease(lease_id))
            except MusterError:  # the store gives every lease its time again when it is back
                continue
            if verdict.outcome is Outcome.LEASE_NOT_FOUND:
                self._lost(lease_id)

    def _lost(self, lease_id: int) -> None:
        """A lease has ended without us, as when this process was stopped: what ended with it is told again."""
        for name, value in self._leases.pop(lease_id, {}).items():
            self.dirty.setdefault(name, value)

    async def _lease_with_room(self) -> int:
        for lease_id, held in self._leases.items():
            if len(held) < MAX_LEASE_KEYS:
                return lease_id
        verdict = await self._ask(GrantLease(self._lease_ms))
        if verdict.outcome is not Outcome.DONE:
            raise Unavailable(f"no lease: {verdict.outcome}")
        self._leases[verdict.revision] = {}
        return verdict.revision

    def _ask(self, command: Command) -> asyncio.Future[Verdict]:
        done: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

        def answered(verdict: Verdict | MusterError, _: Header) -> None:
            if done.done():
                return
            if isinstance(verdict, MusterError):
                done.set_exception(verdict)
            else:
                done.set_result(verdict)

        self._engine.write(self.namespace, command, answered)
        return done


def _transaction(op: Put | Delete) -> Transaction:
    return Transaction((op,), origin=Origin(AUTHOR))
