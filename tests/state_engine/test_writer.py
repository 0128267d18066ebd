"""The writer of a namespace: what gathers, in which order it is written, and what an outage does to it."""

import asyncio
from unittest.mock import patch

import pytest

from coordinator.engine.ownership import ShardLost
from coordinator.errors import LimitReached, Unavailable
from coordinator.journal.memory_store import Fault
from coordinator.ports import StoreCorrupt
from coordinator.state import writer
from coordinator.state.memory_store import StateCall
from coordinator.state.model import (
    Compare,
    CompareTarget,
    Delete,
    ExtendAll,
    GrantLease,
    Outcome,
    Put,
    Read,
    RevokeLease,
    Transaction,
)
from tests.support.state_world import StateWorld, add, all_of, in_world, put


@in_world
async def test_what_gathers_while_a_call_is_under_way_is_the_next_call(world: StateWorld) -> None:
    first = world.send(put("k0"))
    await asyncio.sleep(0.0001)
    others = [world.send(put(f"k{number}")) for number in range(1, 11)]
    await first
    assert not any(other.done() for other in others)
    revisions = [verdict.revision for verdict in await all_of(others)]
    assert revisions == list(range(2, 12))
    assert [len(commands) for _, commands in world.store.batches] == [1, 10]


@in_world
async def test_a_call_is_bounded_by_count_and_bytes(world: StateWorld) -> None:
    await all_of([world.send(put(f"k{number}")) for number in range(600)])
    await all_of([world.send(put(f"k{number}", b"x" * 1024 * 1024)) for number in range(9)])
    assert [len(commands) for _, commands in world.store.batches] == [256, 256, 88, 3, 3, 3]


@in_world
async def test_what_may_delete_many_keys_ends_its_call(world: StateWorld) -> None:
    lease = (await world.send(GrantLease(60_000))).revision
    world.store.batches.clear()
    heavy = [Transaction((Delete("a/", prefix=True),)), RevokeLease(lease), Transaction((), else_ops=(Delete("b/", prefix=True),))]
    await all_of([world.send(command) for command in (put("k"), heavy[0], put("k"), put("k"), heavy[1], heavy[2], put("k"))])
    assert [len(commands) for _, commands in world.store.batches] == [2, 3, 1, 1]


@in_world
async def test_what_reads_too_much_only_together_with_others_is_asked_again(world: StateWorld) -> None:
    await world.put("k", b"x" * 1_000_000)
    reads = await all_of([world.send(Transaction((Read(("k",)),))) for _ in range(40)])
    assert {(verdict.outcome, len(verdict.entries)) for verdict in reads} == {(Outcome.DONE, 1)}
    await world.put("k2", b"x" * 1_000_000)
    await world.put("k3", b"x" * 1_000_000)
    await world.put("k4", b"x" * 1_000_000)
    assert (await world.send(Transaction((Read(("k", "k2", "k3", "k4")),)))).outcome is Outcome.READ_TOO_LARGE


@in_world
async def test_answers_come_in_the_order_of_the_calls(world: StateWorld) -> None:
    answered: list[int] = []
    futures = [world.send(put(f"k{number}")) for number in range(20)]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: answered.append(number))
    await all_of(futures)
    await asyncio.sleep(0)
    assert answered == list(range(20))


@in_world
async def test_an_unknown_outcome_repeats_the_identical_call(world: StateWorld) -> None:
    await world.put("k")
    world.faults = [(StateCall.WRITE, Fault.AFTER), (StateCall.WRITE, Fault.BEFORE)]
    verdict = await world.send(add("n"))
    assert verdict.entries[0].value == b"1"
    assert await world.value("n") == b"1"
    repeated = world.store.batches[1:4]
    assert len({nonce for nonce, _ in repeated}) == 1
    assert repeated[0][1] == repeated[1][1] == repeated[2][1]


@in_world
async def test_new_writes_are_refused_while_the_store_is_out_and_reads_after_a_second(world: StateWorld) -> None:
    world.down = True
    early = world.send(put("early"))
    await asyncio.sleep(0.1)
    with pytest.raises(Unavailable):
        await world.put("late")
    asked_s = world.loop.now_s
    with pytest.raises(Unavailable):
        await world.get("early")
    assert world.loop.now_s - asked_s == pytest.approx(1.0)
    world.down = False
    assert (await early).outcome is Outcome.DONE
    assert await world.value("early") == b""
    assert await world.value("late") is None


@in_world
async def test_a_store_that_hangs_is_out_after_a_second(world: StateWorld) -> None:
    world.store.gate = asyncio.Event()
    early = world.send(put("early"))
    await asyncio.sleep(0.9)
    taken = world.send(put("taken"))
    await asyncio.sleep(0.2)
    with pytest.raises(Unavailable):
        await world.put("late")
    world.store.gate.set()
    await all_of([early, taken])


@in_world
async def test_after_an_outage_deadlines_are_extended(world: StateWorld) -> None:
    await world.put("k")
    world.faults = [(StateCall.WRITE, Fault.BEFORE)]
    await world.put("k")
    await asyncio.sleep(0.1)
    assert any(isinstance(command, ExtendAll) for command in world.store.batches[-1][1])


@in_world
async def test_fenced_ends_the_engine(world: StateWorld) -> None:
    await world.put("k")
    world.owner = 2
    with pytest.raises(Unavailable):
        await world.put("k", b"late")
    assert world.serving is not None
    with pytest.raises(ShardLost):
        await world.serving
    with pytest.raises(Unavailable):
        await world.get("k")
    assert world.state.namespaces["default"].entries["k"].value == b""


@in_world
async def test_a_queue_that_is_full_refuses(world: StateWorld) -> None:
    world.store.gate = asyncio.Event()
    first = world.send(put("k"))
    await asyncio.sleep(0.001)
    with patch.object(writer, "MAX_QUEUED", 100):
        waiting = [world.send(put("k")) for _ in range(100)]
        with pytest.raises(LimitReached):
            await world.put("k")
    world.store.gate.set()
    assert (await first).revision == 1
    assert (await all_of(waiting))[-1].revision == 101


@in_world
async def test_bytes_that_wait_are_bounded(world: StateWorld) -> None:
    world.store.gate = asyncio.Event()
    first = world.send(put("k"))
    await asyncio.sleep(0.001)
    waiting = [world.send(put(f"k{number}", b"x" * 1024 * 1024)) for number in range(64)]
    with pytest.raises(LimitReached):
        await world.put("k")
    world.store.gate.set()
    await all_of([first, *waiting])
    assert (await world.put("k")).outcome is Outcome.DONE


# --- reads --------------------------------------------------------------------------------------------------------------------------


@in_world
async def test_reads_gather_too(world: StateWorld) -> None:
    await all_of([world.send(put(f"k{number}", b"%d" % number)) for number in range(10)])
    first = asyncio.ensure_future(world.get("k0"))
    await asyncio.sleep(0.0001)
    others = [asyncio.ensure_future(world.get(f"k{number}", "none", "k1")) for number in range(10)]
    await first
    found = await all_of(others)
    assert [[entry and entry.value for entry in entries] for entries in found] == [[b"%d" % number, None, b"1"] for number in range(10)]
    assert len([call for call in world.store.calls if call[0] == "get"]) == 2


@in_world
async def test_a_read_behind_a_write_sees_it(world: StateWorld) -> None:
    await world.put("k", b"0")
    answered: list[str] = []
    for number in range(1, 4):
        sent = world.loop.create_future()
        place = world.engine.write("default", put("k", b"%d" % number), lambda verdict, header, sent=sent: sent.set_result(verdict))
        (entry,) = await world.get("k", behind=place)
        assert sent.done()
        assert entry is not None
        assert entry.value == b"%d" % number
        page = await world.engine.history("default", "k", after=0, limit=100, max_bytes=100_000, behind=place)
        assert page.events[-1].entry is not None
        answered.append(page.events[-1].entry.value.decode())
    assert answered == ["1", "2", "3"]


@in_world
async def test_a_read_of_too_many_keys_takes_turns(world: StateWorld) -> None:
    gets = [asyncio.ensure_future(world.get(*(f"{number}/{key}" for key in range(200)))) for number in range(6)]
    await all_of(gets)
    assert max(len(call) for call in world.store.calls if call[0] == "get") <= 513


@in_world
async def test_what_one_answer_can_not_carry_is_refused_and_holds_up_nobody(world: StateWorld) -> None:
    await all_of([world.send(put(f"k{number}", b"x" * 1_000_000)) for number in range(12)])
    gets = [
        asyncio.ensure_future(world.get(*keys)) for keys in (["k0", "k1"], ["k2", "k3", "k4", "k5"], ["k6"], ["k0", "k7", "k8"], ["none"])
    ]
    answers = await asyncio.gather(*gets, return_exceptions=True)
    assert [len(answer) for answer in answers if isinstance(answer, list)] == [2, 1, 3, 1]
    assert isinstance(answers[1], LimitReached)


@in_world
async def test_what_waits_is_refused_when_the_engine_stops(world: StateWorld) -> None:
    world.store.gate = asyncio.Event()
    write = world.send(put("k"))
    place = world.engine.write("default", put("k"), lambda verdict, header: None)
    read = asyncio.ensure_future(world.get("k", behind=place))
    seldom = asyncio.ensure_future(world.engine.facts("default", behind=place))
    await asyncio.sleep(0.1)
    await world.stop()
    for waiting in (write, read, seldom):
        with pytest.raises(Unavailable):
            await waiting
    with pytest.raises(Unavailable):
        await world.put("k")


@in_world
async def test_a_transaction_reads_and_writes(world: StateWorld) -> None:
    await world.put("a", b"1")
    verdict = await world.send(
        Transaction((Put("b", b"2"),), (Compare("a", CompareTarget.VALUE, value=b"2"),), (Read(("a",)),)),
    )
    assert (verdict.outcome, verdict.entries[0].value) == (Outcome.COMPARE_FAILED, b"1")


@in_world
async def test_a_namespace_that_was_deleted_is_empty(world: StateWorld) -> None:
    await world.put("k")
    world.store.gate = asyncio.Event()
    waiting = world.send(put("k"))
    await asyncio.sleep(0.01)
    world.engine.forget("default")
    while await world.engine.purge("default", limit=10):
        pass
    with pytest.raises(Unavailable):
        await waiting
    world.store.gate = None
    assert await world.value("k") is None
    assert (await world.put("k")).revision == 1


@in_world
async def test_an_answer_that_must_not_be_reopens_the_namespace(world: StateWorld) -> None:
    await world.put("k", b"1")
    write = world.store.write

    async def corrupt(*arguments, **options):
        world.store.write = write
        raise StoreCorrupt("no such layout")

    world.store.write = corrupt
    stream = world.engine.watch("default")
    with pytest.raises(Unavailable):
        await world.put("k", b"2")
    with pytest.raises(Unavailable):
        await stream.take()
    await asyncio.sleep(1.1)
    assert (await world.send(add("k"))).entries[0].value == b"2"


@in_world
async def test_an_engine_serves_again_with_the_next_claim(world: StateWorld) -> None:
    await world.send(add("n"))
    await world.stop()
    world.state.namespaces["default"].apply(put("n", b"10"), world.limits, world.now_ms())  # another owner, meanwhile
    await world.start()
    assert (await world.send(add("n"))).entries[0].value == b"11"
    assert world.engine.header("default").revision == 3
