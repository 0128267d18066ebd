"""Coordinator processes of a simulation: the real engine and the real sessions, over a store that the simulation holds."""

import asyncio

from coordinator import convert_deliveries
from coordinator.convert import Bounds
from coordinator.core.invariants import check, check_placed
from coordinator.engine.ownership import ShardLost
from coordinator.engine.snapshots import SnapshotSettings
from coordinator.engine.sweeper import Sweeper
from coordinator.engine.webhooks import WebhookDispatcher
from coordinator.errors import MusterError
from coordinator.ids import Entropy
from coordinator.journal import codec
from coordinator.journal.memory_store import MemoryShardStore
from coordinator.ports import ALONE, Retention
from coordinator.rpc.agent_stream import AgentStream
from coordinator.rpc.client_session import ClientSession
from tests.sim.breakers import WatchedShard
from tests.sim.receivers import SimSender
from tests.sim.wire import Wire

FOR_EVER = Retention(max_age_ms=2**50, max_count=2**50, max_bytes=2**60)


class RemoteStore:
    """A store at the other end of a network: what was asked for is done although the one who asked has died meanwhile."""

    def __init__(self, *, sim, store):
        self._sim = sim
        self._store = store
        self._pending = set()

    def __getattr__(self, name):
        method = getattr(self._store, name)

        async def call(*args, **kwargs):
            asked = asyncio.ensure_future(method(*args, **kwargs))
            self._pending.add(asked)
            asked.add_done_callback(self._pending.discard)
            asked.add_done_callback(lambda done: done.cancelled() or done.exception())  # the one who asked may be gone
            answer = await asyncio.shield(asked)
            await asyncio.sleep(self._sim.rng.choice([0.0, 0.0005, 0.002]))
            return answer

        return call


class AuditedStore(MemoryShardStore):
    """Tells the auditor when a shard changes hands, and before entries of the journal go."""

    def __init__(self, *, auditor, **arguments):
        super().__init__(**arguments)
        self._auditor = auditor

    async def claim(self, claimant=ALONE):
        was_unfinished = self._shard.unfinished is not None
        claim = await super().claim(claimant)
        self._auditor.claimed(claim.epoch, self)
        self._auditor.sim.count("snapshot cut short") if was_unfinished else None
        self._auditor.sim.count("began at a snapshot") if claim.snapshot is not None else None
        return claim

    def _finish(self, *arguments):
        finished = super()._finish(*arguments)
        self._auditor.sim.count("snapshot taken" if finished else "snapshot refused")
        return finished

    def _trim(self, limit):
        self._auditor.catch_up()
        trimmed = super()._trim(limit)
        self._auditor.sim.count("journal trimmed") if trimmed else None
        return trimmed


class CountedSession(ClientSession):
    """A client's session with a hash that is the same in every run: the shard keeps sessions in a set."""

    def __init__(self, *, serial, **arguments):
        super().__init__(**arguments)
        self._serial = serial

    def __hash__(self):
        return self._serial

    def __eq__(self, other):
        return self is other


class Coordinator:
    """One process, from its start to its death."""

    def __init__(self, *, sim, number):
        self.sim = sim
        self.number = number
        self.wires = {}
        self.alive = True
        self._sessions = 0
        self._calls = {}
        self.store = AuditedStore(auditor=sim.auditor, shard=sim.shard_data, now_ms=sim.date_ms, fault=sim.fault)
        self.webhooks = WebhookDispatcher(
            sender=SimSender(sim=sim, coordinator=self),
            codec=convert_deliveries,
            clock=sim,
            entropy=Entropy(seed=sim.rng.getrandbits(32)),
        )
        self.shard = WatchedShard(
            sim=sim,
            number=0,
            store=RemoteStore(sim=sim, store=self.store),
            codec=codec,
            settings=sim.settings,
            clock=sim,
            entropy=Entropy(seed=sim.rng.getrandbits(32)),
            snapshots=SnapshotSettings(min_journal_bytes=500, piece_bytes=100, tasks_per_step=2),
            default_here=True,
            webhooks_due=self.webhooks.due,
        )
        self._run = sim.loop.create_task(self.shard.run(asyncio.Event()), name=f"coordinator {number}")
        self._run.add_done_callback(self._stopped)
        self._delivering = sim.loop.create_task(self.webhooks.run(), name=f"webhooks {number}")
        self._delivering.add_done_callback(self._stopped)
        sweeper = Sweeper(shards=[self.shard], codec=codec, retention=FOR_EVER, period_s=3600.0)
        self._sweeping = sim.loop.create_task(sweeper.run(), name=f"sweeper {number}")
        self._sweeping.add_done_callback(self._stopped)

    def connect(self, owner):
        """Opens a stream for an agent or a client; None where nobody answers, or nobody serves."""
        try:
            namespace = self.shard.namespace(owner.namespace_name) if self.alive else None
        except MusterError:
            namespace = None
        if namespace is None:
            return None
        wire = Wire(sim=self.sim, owner=owner, coordinator=self)
        self.wires[wire] = None
        self._sessions += 1
        arguments = {"shard": self.shard, "namespace": namespace, "session": f"{self.number}.{self._sessions}", "bounds": Bounds()}
        wire.serve(AgentStream(**arguments) if owner.is_agent else CountedSession(serial=self._sessions, **arguments))
        return wire

    def serve(self, call, *, name):
        """A unary call, which ends with the process."""
        task = self.sim.loop.create_task(call, name=name)
        self._calls[task] = None
        task.add_done_callback(lambda _: self._calls.pop(task, None))
        return task

    def owns_the_shard(self):
        """Whether nobody has taken the shard from it."""
        return self.sim.auditor.owner is self.store

    def kill(self):
        """kill -9. What it had asked of the store may still be done."""
        if self.alive:
            self.alive = False
            for wire in list(self.wires):
                wire.sever()
            for call in list(self._calls):
                call.cancel()
            self._run.cancel()
            self._delivering.cancel()
            self._sweeping.cancel()
            self.sim.coordinator_died()

    def check(self):
        """Its schedulers' own invariants."""
        for namespace in self.shard.namespaces.values() if self.alive else ():
            check(namespace.scheduler)
            check_placed(namespace.scheduler)
        shard = self.shard
        if self.alive and self.owns_the_shard() and shard.namespaces and shard.commits.writing is None and not shard.commits.has_next():
            self.sim.count("compared")
            self.sim.auditor.agrees_with(shard)

    def _stopped(self, run):
        error = None if run.cancelled() else run.exception()
        if isinstance(error, ShardLost):
            self.sim.count("fenced")
            self.kill()
        elif error is not None:
            self.sim.fail(error)
