"""Updates in the line of writes: computed one after the other, none lost, none counted twice, and none told too early."""

import asyncio

import pytest

from coordinator.errors import InvalidRequest, RevisionOutOfRange
from coordinator.state.model import (
    Compact,
    Compare,
    CompareTarget,
    Delete,
    Origin,
    Outcome,
    Transaction,
)
from coordinator.state.updates import Append, JsonPatch, MergePatch
from tests.support.state_world import StateWorld, add, all_of, change, in_world, put


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
async def test_an_update_that_is_computed_again_stays_in_the_order_of_its_key(world: StateWorld) -> None:
    """Its place among writes of other keys isn't promised: those of the same call are written by then."""
    await world.send(add("n", "5"))
    wrong = (Compare("n", CompareTarget.VERSION, 99),)
    futures = [world.send(command) for command in (add("n", compares=wrong), add("n", "2"), put("m"), put("n", b"100"), add("n", "3"))]
    read = asyncio.ensure_future(world.get("n", "m", behind=6))
    failed, again, other, own, last = await all_of(futures)
    assert failed.outcome is Outcome.COMPARE_FAILED
    assert (again.entries[0].value, last.entries[0].value) == (b"7", b"103")
    assert other.revision < again.revision < own.revision < last.revision
    assert [entry.value for entry in await read] == [b"103", b""]


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
async def test_what_is_computed_again_keeps_its_place_in_the_line(world: StateWorld) -> None:
    await world.put("n", b"5")
    world.store.gate = asyncio.Event()
    lost, added = world.send(add("n", "100", locks=(("nobody's", 7),))), world.send(add("n", "1"))
    await asyncio.sleep(0.01)
    later = world.send(put("n", b"50"))
    world.store.gate.set()
    await all_of([lost, added, later])
    assert added.result().entries[0].value == b"6"
    assert await world.value("n") == b"50"


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
async def test_a_repetition_is_told_by_its_revision_where_the_version_fits_again(world: StateWorld) -> None:
    await world.put("n", b"10")
    once = add("n", "5", origin=Origin(client_id="c", sequence=1))
    first = await world.send(once)
    await world.send(Transaction((Delete("n"),)))
    await world.put("n", b"100")
    assert (await world.send(once)).entries == first.entries
    assert await world.value("n") == b"100"


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
