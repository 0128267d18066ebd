"""Shared state without an event loop of one's own."""

import asyncio
import inspect
import threading

import pytest

from agent_node import BlockingClient, ConflictError, LockLost
from agent_node.state import BlockingState, State
from tests.support.documents import in_a_thread
from tests.support.fake_state_service import serving


@pytest.fixture
def state(service):
    with in_a_thread(serving(service)) as address, BlockingClient(address, connect_timeout_s=5) as client:
        yield client.state


def test_it_has_all_but_the_watches():
    public = {name for name, _ in inspect.getmembers(State, callable) if not name.startswith("_")}
    blocking = {name for name, _ in inspect.getmembers(BlockingState, callable) if not name.startswith("_")}
    assert public - blocking == {"watch", "subscribe", "write"}
    for name in blocking:
        ours, theirs = inspect.signature(getattr(BlockingState, name)), inspect.signature(getattr(State, name))
        assert list(ours.parameters) == list(theirs.parameters), name
        assert [each.default for each in ours.parameters.values()] == [each.default for each in theirs.parameters.values()], name


def test_everything_works(state):
    state.put("a", {"x": 1}, if_revision=0)
    with pytest.raises(ConflictError):
        state.put("a", 1, if_revision=0)
    assert state.merge_patch("a", {"y": 2}).json() == {"x": 1, "y": 2}
    assert state.json_patch("a", [{"op": "replace", "path": "/x", "value": 5}]).json() == {"x": 5, "y": 2}
    assert state.add("n", 3).json() == 3
    assert state.append("l", 1).json() == [1]
    assert state.set_add("l", 1, 2).json() == [1, 2]
    assert state.set_remove("l", 1).json() == [2]
    assert state.atomic_update("n", lambda entry: entry.json() * 2).json() == 6
    assert [entry.key for entry in state.list()] == ["a", "l", "n"]
    assert set(state.get_many(["a", "none"])) == {"a"}
    assert [event.entry.json() for event in state.history("n")] == [3, 6]
    assert state.txn().if_exists("a").delete("a").commit().succeeded
    assert state.get("a") is None
    assert state.delete("n")
    assert state.delete_prefix("l") == 1
    assert state.stats().keys == 0
    state.compact(3)


def test_a_lease(state, service):
    with state.lease(30) as lease:
        state.put("k", 1, lease=lease)
        assert service.entries["k"].lease_id == lease.lease_id
    assert "k" not in service.entries


def test_a_lock(state, service):
    with state.lock("l") as lock:
        state.put("k", 1)
        assert service.entries["k"]
        assert [each.name for each in state.locks()] == ["l"]
        assert lock.token
    assert [each.token for each in service.ops[1].put.options.required_locks] == [lock.token]
    with pytest.raises(LockLost), state.lock("l"):  # noqa: PT012 - it comes out of the whole block
        service.take_lock_away("l")
        state.put("k", 2)
    assert service.entries["k"].value == b"1"


def test_a_lock_is_the_threads_own(state, service):
    with state.lock("l"):
        thread = threading.Thread(target=lambda: asyncio.run(_put(state)))
        thread.start()
        thread.join()
    assert not service.ops[1].put.options.required_locks


async def _put(state):
    await asyncio.to_thread(state.put, "k", 1)
