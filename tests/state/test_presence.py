"""Agents' presence in shared state: only the latest is written, what fails is written later, and leases are kept alive."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

from coordinator.errors import Unavailable
from coordinator.rpc.agent_presence import AgentPresence
from coordinator.state.model import Delete, GrantLease, KeepLease, Outcome, Put, Verdict
from tests.support.eventually import eventually


class Engine:
    """Answers each command at once, as a test says; and keeps what it was asked."""

    def __init__(self):
        self.asked = []
        self.out = False
        self.lost = set()
        self.keys = {}
        self.leases = 0

    def write(self, _namespace, command, answered):
        self.asked.append(command)
        answered(self._verdict(command), None)

    def _verdict(self, command):
        if self.out:
            return Unavailable("the store is out")
        match command:
            case GrantLease():
                self.leases += 1
                return Verdict(Outcome.DONE, revision=self.leases)
            case KeepLease(lease_id):
                return Verdict(Outcome.LEASE_NOT_FOUND if lease_id in self.lost else Outcome.DONE)
        match command.then_ops[0]:
            case Put(lease_id=lease_id) if lease_id in self.lost:
                return Verdict(Outcome.LEASE_NOT_FOUND)
            case Put(key=key, lease_id=lease_id):
                self.keys[key] = lease_id
            case Delete(key=key):
                self.keys.pop(key, None)
        return Verdict(Outcome.DONE)


def agent(name, session="s"):
    return SimpleNamespace(name=name, session=session, capabilities={"work": None}, labels={}, capacity=1, sdk="", since_ms=1)


NAMESPACE = SimpleNamespace(name="default")
SHARD = SimpleNamespace(number=0, deleted={}, serving=True)


@asynccontextmanager
async def running(engine, **options):
    presence = AgentPresence(engines=[engine], **{"retry_s": 0.01, **options})
    run = asyncio.create_task(presence.run())
    try:
        yield presence
    finally:
        run.cancel()
        await asyncio.wait([run])


async def test_only_the_latest_is_written():
    engine = Engine()
    async with running(engine) as presence:
        for session in ("1", "2", "3"):
            presence.came(SHARD, NAMESPACE, agent("a", session))
        presence.left(NAMESPACE, "a", "2")  # an old session's end
        presence.came(SHARD, NAMESPACE, agent("b"))
        presence.left(NAMESPACE, "b", "s")
        await eventually(lambda: engine.keys == {"agents/a/presence": 1}, message="one agent to be present")
        assert [type(command) for command in engine.asked].count(GrantLease) == 1
        presence.left(NAMESPACE, "a", "3")
        await eventually(lambda: not engine.keys, message="nobody to be present")


async def test_what_cannot_be_written_is_written_later():
    engine = Engine()
    engine.out = True
    async with running(engine) as presence:
        presence.came(SHARD, NAMESPACE, agent("a"))
        await eventually(lambda: len(engine.asked) > 2, message="it to be tried again")
        engine.out = False
        await eventually(lambda: engine.keys == {"agents/a/presence": 1}, message="the agent to be present")
        engine.out = True
        presence.left(NAMESPACE, "a", "s")
        tried = len(engine.asked)
        await eventually(lambda: len(engine.asked) > tried + 1, message="the going to be tried again")
        engine.out = False
        await eventually(lambda: not engine.keys, message="nobody to be present")


async def test_a_lease_is_kept_and_one_that_ended_is_replaced():
    engine = Engine()
    async with running(engine, lease_s=0.06) as presence:
        presence.came(SHARD, NAMESPACE, agent("a"))
        await eventually(lambda: KeepLease(1) in engine.asked, message="a sign of life")
        engine.lost.add(1)
        engine.keys.clear()
        await eventually(lambda: engine.keys == {"agents/a/presence": 2}, message="the agent to be told again")
        presence.left(NAMESPACE, "a", "s")
        await eventually(lambda: not engine.keys, message="the agent to go")
        kept = engine.asked.count(KeepLease(2))
        presence.came(SHARD, NAMESPACE, agent("b"))
        await eventually(lambda: engine.keys, message="another agent")
        await eventually(lambda: engine.asked.count(KeepLease(2)) + engine.asked.count(KeepLease(3)) > kept, message="a lease to be kept")


async def test_a_deleted_namespace_is_forgotten():
    engine = Engine()
    engine.out = True
    shard = SimpleNamespace(number=0, deleted={"default": None}, serving=True)
    async with running(engine) as presence:
        presence.came(shard, NAMESPACE, agent("a"))
        await eventually(lambda: engine.asked, message="it to be tried")
        await eventually(lambda: not presence.namespaces, message="it to be given up")


async def test_agents_of_a_shard_that_is_anothers_are_forgotten():
    """What can't be written is the next owner's to write; what was written ends with its lease."""
    engine, shard = Engine(), SimpleNamespace(number=0, deleted={}, serving=True)
    async with running(engine) as presence:
        presence.came(shard, NAMESPACE, agent("a"))
        await eventually(lambda: engine.keys, message="it to be present")
        engine.out, shard.serving = True, False
        presence.left(NAMESPACE, "a", "s")
        await eventually(lambda: not presence.namespaces, message="the namespace to be forgotten")
        assert list(engine.keys) == ["agents/a/presence"]
