"""The writer of a namespace: what gathers, in which order it is written, and what an outage does to it."""

import asyncio
from unittest.mock import patch

import pytest

from coordinator.engine.ownership import ShardLost
from coordinator.errors import InvalidRequest, LimitReached, RevisionOutOfRange, Unavailable
from coordinator.journal.memory_store import Fault
from coordinator.ports import StoreCorrupt
from coordinator.state import writer
from coordinator.state.memory_store import StateCall
from coordinator.state.model import (
    Compact,
    Compare,
    CompareTarget,
    Delete,
    ExtendAll,
    GrantLease,
    Origin,
    Outcome,
    Put,
    Read,
    RevokeLease,
    Transaction,
)
from coordinator.state.updates import Append, JsonPatch, MergePatch
from tests.support.state_world import StateWorld, add, all_of, change, in_world, put


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


# --- updates ------------------------------------------------------------------------------------------------------------------------


@in_world
async def test_updates_of_one_key_travel_in_one_call_and_none_is_lost(world: StateWorld) -> None:
    first = await world.send(add("n"))
    assert (first.entries[0].value, first.entries[0].version) == (b"1", 1)
    verdicts = await all_of([world.send(add("n")) for _ in range(200)])
    assert [verdict.entries[0].value for verdict in verdicts] == [b"%d" % number for number in range(2, 202)]
    assert [verdict.entries[0].version for verdict in verdicts] == list(range(2, 202))
    assert len({verdict.revision for verdict in verdicts}) == 200
    assert len(world.store.batches) == 2
    assert [call for call in world.store.calls if call[0] == "get"] == [("get", "n")]


@in_world
async def test_updates_of_cold_keys_are_read_together(world: StateWorld) -> None:
    await all_of([world.send(put(f"n{number}", b"5")) for number in range(100)])
    verdicts = await all_of([world.send(add(f"n{number}")) for number in range(100)])
    assert {verdict.entries[0].value for verdict in verdicts} == {b"6"}
    assert len([call for call in world.store.calls if call[0] == "get"]) == 1


@in_world
async def test_updates_and_writes_of_one_key_keep_their_order(world: StateWorld) -> None:
    futures = []
    for number in range(5):
        futures += [world.send(put("n", b"%d" % (number * 100))), world.send(add("n")), world.send(add("n"))]
    verdicts = await all_of(futures)
    assert [verdict.entries[0].value for verdict in verdicts if verdict.entries] == [
        b"%d" % (number * 100 + more) for number in range(5) for more in (1, 2)
    ]
    assert [verdict.revision for verdict in verdicts] == list(range(1, 16))


@in_world
async def test_an_update_behind_a_delete_begins_anew(world: StateWorld) -> None:
    await world.send(add("a/n", "7"))
    deleted = world.send(Transaction((Delete("a/", prefix=True),)))
    added = world.send(add("a/n", "2"))
    deleted_again = world.send(Transaction((Delete("a/n"),)))
    added_again = world.send(add("a/n", "3"))
    verdicts = await all_of([deleted, added, deleted_again, added_again])
    assert [verdict.entries[0].value for verdict in (verdicts[1], verdicts[3])] == [b"2", b"3"]


@in_world
async def test_an_update_that_somebody_else_overtook_is_computed_again(world: StateWorld) -> None:
    await world.send(add("n", "5"))
    namespace = world.state.namespaces["default"]
    namespace.apply(put("n", b"40"), world.limits, world.now_ms())  # nobody else writes a shard; the compare holds all the same
    verdicts = await all_of([world.send(add("n", "1")), world.send(add("n", "1"))])
    assert [verdict.entries[0].value for verdict in verdicts] == [b"41", b"42"]


@in_world
async def test_a_large_value_is_written_before_the_next_update_begins_with_it(world: StateWorld) -> None:
    item = b'"%s"' % (b"x" * 20_000)
    verdicts = await all_of([world.send(change("l", Append((item,)))) for _ in range(4)])
    assert [verdict.entries[0].version for verdict in verdicts] == [1, 2, 3, 4]
    assert all(len(commands) == 1 for _, commands in world.store.batches)


@in_world
async def test_if_an_update_is_refused_those_behind_it_are_computed_again(world: StateWorld) -> None:
    await world.send(add("n", "5"))
    lost = world.send(add("n", "100", locks=(("nobody's", 7),)))
    others = [world.send(add("n", "1")) for _ in range(3)]
    assert (await lost).outcome is Outcome.LOCK_LOST
    assert [verdict.entries[0].value for verdict in await all_of(others)] == [b"6", b"7", b"8"]


@in_world
async def test_a_condition_of_an_update_is_the_store_s_to_check(world: StateWorld) -> None:
    revision = (await world.send(add("n", "5"))).revision
    condition = (Compare("n", CompareTarget.MOD_REVISION, revision),)
    verdicts = await all_of(
        [world.send(add("n", "1", compares=condition)), world.send(add("n", "1", compares=condition)), world.send(add("n"))]
    )
    assert [verdict.outcome for verdict in verdicts] == [Outcome.DONE, Outcome.COMPARE_FAILED, Outcome.DONE]
    assert verdicts[1].entries[0].value == b"6"
    assert verdicts[2].entries[0].value == b"7"
    absent = await world.send(add("none", compares=(Compare("none", CompareTarget.MOD_REVISION, 3),)))
    assert (absent.outcome, absent.entries) == (Outcome.COMPARE_FAILED, ())


@in_world
async def test_a_failure_is_told_only_of_what_is_durable(world: StateWorld) -> None:
    world.store.gate = asyncio.Event()
    made_text = world.send(put("n", b'"text"'))
    failing = world.send(add("n"))
    later = world.send(change("n", MergePatch(b"3")))
    await asyncio.sleep(0.5)
    assert not failing.done()
    world.store.gate.set()
    await made_text
    with pytest.raises(InvalidRequest) as refused:
        await failing
    assert (refused.value.field, refused.value.reason) == ("add", "PATCH_FAILED")
    assert (await later).entries[0].value == b"3"


@in_world
async def test_a_failure_that_comes_from_what_was_refused_is_none(world: StateWorld) -> None:
    await world.put("n", b"1")
    to_text = world.send(change("n", MergePatch(b'"text"'), locks=(("nobody's", 7),)))
    added = world.send(add("n"))
    assert (await to_text).outcome is Outcome.LOCK_LOST
    assert (await added).entries[0].value == b"2"


@in_world
async def test_a_change_that_never_can_be_done_is_refused_at_once(world: StateWorld) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await world.send(change("n", JsonPatch(b'[{"op": "add", "path": "/a", "value": 1}, {"op": "turn", "path": "/a"}]')))
    assert refused.value.metadata == {"index": "1", "path": "/a"}
    assert world.store.batches == []


@in_world
async def test_a_repeated_update_counts_once_and_answers_what_it_made(world: StateWorld) -> None:
    once = add("n", "5", origin=Origin(client_id="c", sequence=1))
    first = await world.send(once)
    await world.send(add("n", "10"))
    again = await world.send(once)
    assert (again.entries, again.revision) == (first.entries, first.revision)
    together = await all_of([world.send(add("n", "1", origin=Origin(client_id="c", sequence=2))) for _ in range(2)])
    behind = await world.send(add("n"))
    assert together[0].entries == together[1].entries
    assert behind.entries[0].value == b"17"


@in_world
async def test_a_repeated_patch_that_no_longer_applies_was_done(world: StateWorld) -> None:
    await world.put("d", b'{"a": 1}')
    remove = change("d", JsonPatch(b'[{"op": "remove", "path": "/a"}]'), origin=Origin(client_id="c", sequence=1))
    first = await world.send(remove)
    assert (await world.send(remove)).entries == first.entries
    with pytest.raises(InvalidRequest):
        await world.send(change("d", JsonPatch(b'[{"op": "remove", "path": "/a"}]'), origin=Origin(client_id="c", sequence=2)))


@in_world
async def test_a_repeated_update_whose_value_is_gone_says_so(world: StateWorld) -> None:
    once = add("n", "5", origin=Origin(client_id="c", sequence=1))
    await world.send(once)
    last = await world.send(add("n"))
    await world.send(Compact(last.revision, 100))
    with pytest.raises(RevisionOutOfRange):
        await world.send(once)
    assert await world.value("n") == b"6"


@in_world
async def test_an_update_keeps_lease_ttl_and_content_type(world: StateWorld) -> None:
    await world.put("n", b"5", content_type="text/plain", ttl_ms=5_000)
    verdict = await world.send(add("n"))
    assert verdict.entries[0].content_type == "text/plain"
    assert (await world.send(add("new"))).entries[0].content_type == "application/json"
    await asyncio.sleep(6)
    assert await world.value("n") is None
    assert (await world.send(add("n"))).entries[0].value == b"1"


@in_world
async def test_hot_values_are_bounded_in_bytes(world: StateWorld) -> None:
    world.engine._hot._max_bytes = 10_000
    await all_of([world.send(change(f"k{number}", MergePatch(b'"%s"' % (b"x" * 1_000)))) for number in range(50)])
    assert world.engine._hot._bytes <= 10_000
    huge = await world.send(change("huge", MergePatch(b'"%s"' % (b"x" * 50_000))))
    assert (await world.send(change("huge", MergePatch(b'"y"')))).entries[0].version == huge.entries[0].version + 1


@in_world
async def test_cold_values_that_are_too_much_for_one_call_are_read_in_turn(world: StateWorld) -> None:
    text = b'"%s"' % (b"x" * 1_000_000)
    await all_of([world.send(put(f"k{number}", text)) for number in range(12)])
    verdicts = await all_of([world.send(change(f"k{number}", MergePatch(b'"y"'))) for number in range(12)])
    assert {verdict.entries[0].value for verdict in verdicts} == {b'"y"'}
    assert len([call for call in world.store.calls if call[0] == "get"]) > 1


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
