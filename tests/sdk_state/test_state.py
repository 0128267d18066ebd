"""Reading, writing and updating shared state, over connections that break."""

import asyncio
from dataclasses import dataclass

import grpc
import pytest
from muster.v1.common_pb2 import Refusal

from agent_node import AttemptLostError, ConflictError, PayloadError, RefusedError, UnavailableError
from agent_node.state import AgentState, Author, session
from agent_node.state.values import EventKind
from tests.support.eventually import eventually


@dataclass
class Point:
    x: int
    y: int


def _unavailable(after_s):
    refusal = Refusal(code=grpc.StatusCode.UNAVAILABLE.value[0], reason="STORE_UNAVAILABLE", message="the store is out")
    refusal.retry_after.FromMilliseconds(round(after_s * 1000))
    return refusal


async def test_values_come_back_as_they_were_given(state):
    assert await state.get("a") is None
    first = await state.put("a", b"\x00\xff")
    await state.put("t", "grüße")
    await state.put("p", Point(1, 2))
    entry = await state.get("a")
    assert (entry.value, entry.revision, entry.version, entry.content_type) == (b"\x00\xff", first, 1, "application/octet-stream")
    assert (await state.get("t")).text() == "grüße"
    assert (await state.get("p")).json(Point) == Point(1, 2)
    assert set(await state.get_many(["a", "t", "none"])) == {"a", "t"}
    assert await state.delete("a")
    assert not await state.delete("a")
    assert (await state.stats()).keys == 2


async def test_a_list_goes_over_its_pages(state):
    for number in range(7):
        await state.put(f"k/{number}", number)
    await state.put("other", 1)
    assert [entry.json() async for entry in state.list("k/", page_size=3)] == list(range(7))
    assert [entry.value async for entry in state.list("k/", keys_only=True)] == [b""] * 7
    assert await state.delete_prefix("k/") == 7
    assert [entry.key async for entry in state.list()] == ["other"]
    with pytest.raises(ValueError, match="every key"):
        await state.delete_prefix("")


async def test_a_write_on_a_condition_says_what_is_there(state):
    first = await state.put("a", 1, if_revision=0)
    with pytest.raises(ConflictError) as conflict:
        await state.put("a", 2, if_revision=0)
    assert conflict.value.entry.json() == 1
    with pytest.raises(ConflictError):
        await state.delete("a", if_revision=first + 7)
    with pytest.raises(ConflictError) as conflict:
        await state.add("none", if_revision=3)
    assert conflict.value.entry is None
    assert await state.put("a", 3, if_revision=first) > first


async def test_updates_are_made_where_the_key_is(state):
    assert (await state.add("n", 2)).json() == 2
    assert (await state.add("n", 10**20)).json() == 10**20 + 2
    assert (await state.append("l", 1, {"a": 2})).json() == [1, {"a": 2}]
    assert (await state.set_add("s", "x", "y")).json() == ["x", "y"]
    assert (await state.set_add("s", "x", "z")).json() == ["x", "y", "z"]
    assert (await state.set_remove("s", "x")).json() == ["y", "z"]
    assert (await state.merge_patch("m", {"a": 1, "b": 2})).json() == {"a": 1, "b": 2}
    assert (await state.merge_patch("m", {"a": None})).json() == {"b": 2}
    assert (await state.json_patch("m", [{"op": "replace", "path": "/b", "value": 3}])).json() == {"b": 3}
    with pytest.raises(TypeError, match="number"):
        await state.add("n", "1")


async def test_a_transaction_is_all_or_the_other(state):
    made = await state.txn().if_missing("leader").put("leader", "me").put("since", 1).otherwise_get("leader").commit()
    assert made.succeeded
    again = await state.txn().if_missing("leader").put("leader", "you").otherwise_get("leader").commit()
    assert not again.succeeded
    assert again.entries["leader"].text() == "me"
    entry = await state.get("leader")
    assert entry.revision == (await state.get("since")).revision == made.revision
    checked = state.txn().if_revision("leader", entry.revision).if_version("leader", 1).if_value("leader", "me").if_exists("since")
    done = await checked.if_create_revision("leader", entry.revision).get("since").delete("leader").commit()
    assert done.succeeded
    assert done.entries["since"].json() == 1
    assert await state.get("leader") is None
    refused = await state.txn().if_exists("leader").otherwise_put("b", 1).otherwise_delete("since").commit()
    assert not refused.succeeded
    assert [entry.key async for entry in state.list()] == ["b"]


async def test_concurrent_calls_share_messages(state, service):
    await state.get("warm")
    await asyncio.gather(*(state.put(f"k{number}", number) for number in range(1_000)))
    assert len(service.entries) == 1_000
    assert sum(service.batches) == 1_001
    assert len(service.batches) < 20
    assert max(service.batches) <= 256


async def test_messages_stay_small(state, service):
    await state.get("warm")
    await asyncio.gather(*(state.put(f"k{number}", bytes(1_000_000)) for number in range(9)))
    assert max(service.batches) <= 3


async def test_a_write_whose_answer_was_lost_counts_once(state, service):
    await state.add("n")
    service.answering = False
    adding = asyncio.ensure_future(state.add("n", 5))
    await eventually(lambda: len(service.ops) == 2, message="the add to arrive")
    service.answering = True
    await service.break_streams()
    assert (await adding).json() == 6
    assert len(service.ops) == 3
    assert service.ops[1].update.options.sequence == service.ops[2].update.options.sequence != 0
    assert (await state.add("n")).json() == 7


async def test_writes_stay_near_the_oldest_that_is_unanswered(state, service, monkeypatch):
    monkeypatch.setattr(session, "MAX_WRITES_AHEAD", 10)
    await state.get("warm")
    service.answering = False
    writes = [asyncio.ensure_future(state.append("l", number)) for number in range(40)]
    await eventually(lambda: len(service.ops) == 11, message="the first writes to arrive")
    writes[0].cancel()
    reading = asyncio.ensure_future(state.get("k"))
    await eventually(lambda: len(service.ops) == 13, message="one more write, and the read")
    service.answering = True
    await service.break_streams()
    await asyncio.gather(*writes[1:], reading)
    assert (await state.get("l")).json() == list(range(40))


async def test_what_is_repeated_keeps_its_order(state, service):
    await state.get("warm")
    service.deaf = True
    writes = [asyncio.ensure_future(state.append("l", number)) for number in range(50)]
    await eventually(lambda: service.lost == 50, message="the writes to be lost")
    service.deaf = False
    await service.break_streams()
    await asyncio.gather(*writes)
    assert (await state.get("l")).json() == list(range(50))


async def test_what_is_cancelled_before_it_was_sent_is_not_sent(state, service):
    writing = asyncio.ensure_future(state.put("k", 1))
    await asyncio.sleep(0)
    writing.cancel()
    await state.get("k")
    assert writing.cancelled()
    assert [op.WhichOneof("op") for op in service.ops] == ["get"]


async def test_an_outage_of_the_store_is_waited_for(state, service):
    service.refuse_next = [_unavailable(0.01), _unavailable(0.01)]
    assert (await state.add("n")).json() == 1
    assert len({op.update.options.sequence for op in service.ops}) == 1


async def test_a_refusal_is_raised_and_stops_nothing_else(state, service):
    service.refuse_next = [Refusal(code=3, reason="KEY_TOO_LONG", message="shorten it", field="key")]
    with pytest.raises(RefusedError, match="shorten it") as refused:
        await state.put("k" * 2_000, 1)
    assert (refused.value.reason, refused.value.field) == ("KEY_TOO_LONG", "key")
    await state.put("k", 1)


async def test_a_wrong_address_shows_soon():
    from agent_node import Client

    async with Client("127.0.0.1:1", connect_timeout_s=0.2) as client:
        with pytest.raises(UnavailableError):
            await client.state.get("a")


async def test_a_closed_client_ends_what_waits(connect, service):
    client = connect()
    await client.state.get("warm")
    service.answering = False
    waiting = asyncio.ensure_future(client.state.get("a"))
    await eventually(lambda: len(service.ops) == 2, message="the read to arrive")
    await client.aclose()
    with pytest.raises(UnavailableError, match="closed"):
        await waiting
    with pytest.raises(UnavailableError, match="closed"):
        await client.state.get("a")


async def test_atomic_updates_lose_nothing(connect):
    states = [connect().state for _ in range(3)]
    calls = 0

    def plus_one(entry):
        nonlocal calls
        calls += 1
        return (entry.json() if entry else 0) + 1

    async def slowly(entry):
        await asyncio.sleep(0)
        return plus_one(entry)

    await asyncio.gather(*(state.atomic_update("n", change) for state in states for change in [plus_one, slowly] * 10))
    assert (await states[0].get("n")).json() == 60
    assert calls > 60  # somebody was faster now and then
    entry = await states[0].atomic_update("n", plus_one)
    assert (entry.json(), entry.version) == (61, 61)
    assert (await states[0].get("n")).revision == entry.revision


async def test_atomic_updates_of_one_client_travel_behind_each_other(state, service):
    await state.put("n", 0)
    service.batches.clear()
    entries = await asyncio.gather(*(state.atomic_update("n", lambda entry: entry.json() + 1) for _ in range(200)))
    assert [entry.json() for entry in entries] == list(range(1, 201))
    assert [entry.revision for entry in entries] == list(range(2, 202))
    assert sum(service.batches) == 201  # one read, and nothing was tried twice


async def test_what_travels_behind_a_refused_update_is_made_again(state, service):
    await state.put("n", 0)
    held = asyncio.Event()

    async def first(entry):
        if entry.json() == 0:
            held.set()
            service.write("n", b"100")
        return entry.json() + 1

    updates = [state.atomic_update("n", first), *(state.atomic_update("n", lambda entry: entry.json() + 1) for _ in range(20))]
    await asyncio.gather(*updates)
    assert held.is_set()
    assert (await state.get("n")).json() == 121


async def test_a_cancelled_atomic_update_breaks_no_other(state, service):
    await state.put("n", 0)

    def plus_one(entry):
        service.answering = False
        return entry.json() + 1

    updates = [asyncio.ensure_future(state.atomic_update("n", plus_one)) for _ in range(20)]
    await eventually(lambda: len(service.ops) == 22, message="all to be under way")
    updates[3].cancel()
    await asyncio.wait([updates[3]])
    service.answering = True
    await service.break_streams()
    done = await asyncio.gather(*updates, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in done] == [number == 3 for number in range(20)]
    assert (await state.get("n")).json() == 20  # it had been made


async def test_the_same_value_written_by_somebody_else_is_noticed(state, service):
    await state.put("n", 0)

    def plus_one(entry):
        if entry.json() == 0:
            service.write("n", b"7")
            service.write("n", b"1")  # what the next one believes that this one is writing
        return entry.json() + 1

    entries = await asyncio.gather(*(state.atomic_update("n", plus_one) for _ in range(3)))
    assert sorted(entry.version for entry in entries) == [4, 5, 6] == [(await state.get("n")).version - back for back in (2, 1, 0)]


@pytest.mark.parametrize("fault", ["somebody else was faster", "one was refused"])
async def test_a_busy_key_recovers_from(state, service, fault):
    await state.put("n", 0)
    made = refused = 0

    def plus_one(entry):
        nonlocal made
        made += 1
        if made == 20 and fault == "somebody else was faster":
            service.write("n", b"1000")
        if made == 20 and fault == "one was refused":
            service.refuse_next = [Refusal(code=9, reason="ANY", message="no")]
        return entry.json() + 1

    async def work():
        nonlocal refused
        for _ in range(20):
            try:
                await state.atomic_update("n", plus_one, max_retries=1)
            except ConflictError:
                raise
            except RefusedError:
                refused += 1

    await asyncio.gather(*(work() for _ in range(5)))
    value = (await state.get("n")).json()
    if fault == "one was refused":
        assert (value, refused) == (99, 1)
    else:
        assert 1000 < value <= 1100


async def test_nothing_is_built_on_an_update_that_was_refused(state, service):
    await state.put("n", 0)
    began = asyncio.Event()

    def refused(entry):
        service.refuse_next = [Refusal(code=9, reason="ANY", message="no")]
        return 77

    async def never(entry):
        began.set()
        await asyncio.Event().wait()

    first = asyncio.ensure_future(state.atomic_update("n", refused))
    second = asyncio.ensure_future(state.atomic_update("n", never))
    third = asyncio.ensure_future(state.atomic_update("n", lambda entry: entry.json() + 1, max_retries=0))
    with pytest.raises(RefusedError):
        await first
    assert began.is_set()
    second.cancel()
    assert (await third).json() == 1


async def test_large_values_wait_for_the_one_before(state, service):
    await state.put("big", "x" * 20_000)
    await asyncio.gather(*(state.atomic_update("big", lambda entry: entry.text() + "y") for _ in range(10)))
    assert (await state.get("big")).text() == "x" * 20_000 + "y" * 10
    assert not any(compare.value for op in service.ops for compare in op.txn.compares)


async def test_atomic_updates_under_a_lock_are_called_once(connect):
    states = [connect().state for _ in range(3)]
    calls = 0

    async def plus_one(entry):
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return (entry.json() if entry else 0) + 1

    await asyncio.gather(*(state.atomic_update("n", plus_one, lock=True) for state in states for _ in range(5)))
    assert (await states[0].get("n")).json() == calls == 15


async def test_an_atomic_update_gives_up_and_passes_errors_on(state, service):
    def late(entry):
        service.write("n", b"1")
        return 2

    with pytest.raises(ConflictError):
        await state.atomic_update("n", late, max_retries=2)
    assert service.entries["n"].version == 3
    with pytest.raises(ZeroDivisionError):
        await state.atomic_update("n", lambda entry: 1 / 0)


async def test_an_update_from_within_its_own_function_says_so(state):
    async def again(entry):
        await state.atomic_update("n", lambda entry: 1)

    with pytest.raises(RuntimeError, match="from within its own function"):
        await state.atomic_update("n", again)

    later = []

    async def begin_later(entry):
        later.append(asyncio.ensure_future(state.atomic_update("n", lambda entry: entry.json() + 1)))
        await state.atomic_update("other", lambda entry: 1)  # another key may
        return 1

    await state.atomic_update("n", begin_later)
    await later[0]
    assert (await state.get("n")).json() == 2


async def test_writes_say_who_made_them_and_can_be_tied_to_an_attempt(connect, service):
    state = connect().state_of(Author(agent="a", task_id="t", attempt=2), ("t", service.begin_attempt("t")))
    await state.put("k", 1, fenced=True)
    assert (await state.get("k")).author == Author(agent="a", task_id="t", attempt=2)
    [event] = [event async for event in state.history("k")]
    assert (event.kind, event.author.task_id, event.entry.json()) == (EventKind.PUT, "t", 1)
    service.end_attempt("t")
    with pytest.raises(AttemptLostError):
        await state.put("k", 2, fenced=True)
    with pytest.raises(AttemptLostError):
        await state.txn(fenced=True).put("k", 2).commit()
    await state.put("k", 3)
    with pytest.raises(ValueError, match="handler"):
        await connect().state.put("k", 4, fenced=True)


async def test_an_agent_tells_of_itself(state):
    agent = AgentState("worker-1", state)
    assert await agent.get_status() is None
    seen = agent.watch_status()
    assert await anext(seen) is None
    await agent.update_status("working", {"model": "m"})
    assert (await anext(seen)).status == "working"
    assert (await agent.get_status()).metadata == {"model": "m"}
    await seen.aclose()
    await agent.update_progress(3, 4, "task-1")
    progress = await agent.get_progress()
    assert (progress.current, progress.percentage, progress.task_id) == (3, 75, "task-1")
    following = agent.watch_progress()
    assert (await anext(following)).current == 3
    await agent.update_progress(4, 4, "task-1")
    assert (await anext(following)).percentage == 100
    await following.aclose()
    with pytest.raises(ValueError, match="slash"):
        AgentState("a/b", state)


async def test_what_is_no_agents_status_is_told(state):
    agent = AgentState("worker-1", state)
    for wrong in ("hello", b"\xff", [1], {"other": 1}, None):
        for name, read in (("status", agent.get_status), ("progress", agent.get_progress), ("presence", agent.get_presence)):
            await state.put(f"agents/worker-1/{name}", wrong)
            with pytest.raises(PayloadError, match=f"holds no agent's {name}: something else was written there"):
                await read()
    with pytest.raises(PayloadError, match="no agent's status"):
        await anext(agent.watch_status())
