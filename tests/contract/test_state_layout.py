"""How shared state lies in Redis: none of it may ever change for a layout's version, and every version that was is read.

`recorded_state_1.json` holds what `write_something` left under version 1. A new version gets a new recording, beside the old ones.
"""

import json
from pathlib import Path

import pytest

from coordinator.state.layout import PARTS, STATE_VERSION, StateKeys
from coordinator.state.model import (
    AcquireLock,
    Compact,
    Delete,
    GrantLease,
    Origin,
    Outcome,
    Put,
    ReleaseLock,
    RevokeLease,
    Transaction,
)
from coordinator.state.ports import WriteAnswer
from tests.support.shard_backings import KEYS
from tests.support.state_backings import START_MS
from tests.support.state_recording import record, restore

RECORDED = {1: Path(__file__).with_name("recorded_state_1.json")}
NAMES = StateKeys(shard=KEYS).parts("default")
BIG = b"B" * 4097
ONCE = Transaction((Put("a", b"1", content_type="text/plain"), Put("big", BIG)), origin=Origin(b"\x00me", "client", 1))


async def write_something(writer):
    await writer.batch(ONCE, GrantLease(60_000), nonce="1")
    await writer.batch(Transaction((Put("leased", b"l", lease_id=2), Put("short", b"s", ttl_ms=1000), Put("gone", b""))), nonce="2")
    await writer.batch(AcquireLock("l", "holder", 60_000, wait=True, author=b"h"), AcquireLock("l", "waiter", 60_000, wait=True), nonce="3")
    await writer.batch(Transaction((Put("a", b"2", content_type="text/plain"),)), nonce="4")
    await writer.batch(Transaction((Delete("gone"),)), nonce="5")
    await writer.batch(Compact(1, 1), AcquireLock("m", "other", 60_000, wait=True), nonce="last")


def test_there_is_a_recording_of_every_version():
    assert set(RECORDED) == set(range(1, STATE_VERSION + 1))


async def test_it_is_written_as_it_was_recorded(server_state, server_writer):
    await write_something(server_writer)
    written = await record(server_state.client, NAMES)
    for name, held in json.loads(RECORDED[STATE_VERSION].read_text()).items():
        assert written.pop(name) == held, name
    assert written == {}


@pytest.mark.parametrize("version", sorted(RECORDED))
async def test_what_was_recorded_is_read_and_written_on(server_state, server_writer, version):
    await restore(server_state.client, json.loads(RECORDED[version].read_text()))
    writer = server_writer
    facts = await writer.facts()
    assert (facts.revision, facts.incarnation, facts.keys, facts.bytes) == (7, "1", 4, 1 + 1 + 3 + 4097 + 6 + 1 + 5 + 1)
    assert facts.next_due_ms == START_MS + 1000
    entry = await writer.get("a")
    assert (entry.value, entry.content_type, entry.version, entry.create_revision, entry.mod_revision) == (b"2", "text/plain", 2, 1, 5)
    assert (await writer.get("leased")).lease_id == 2
    assert await writer.value("big") == BIG
    assert (await writer.store.entry_at("default", "a", 1)).author == b"\x00me"
    assert [revision for _, _, revision in await writer.told()] == [1, 1, 3, 3, 3, 5, 6]
    assert await writer.lock() == ("holder", ["waiter"])

    again = await writer.batch(Compact(1, 1), AcquireLock("m", "other", 60_000, wait=True), nonce="last")
    assert (again.answer, again.verdicts[1].revision) == (WriteAnswer.ALREADY_MINE, 7)
    repeated = await writer.do(ONCE)
    assert (repeated.revision, [put.key for put in repeated.puts]) == (1, ["a", "big"])

    writer.clock.pass_ms(1000)
    assert (await writer.expire()).revision == 8
    assert (await writer.do(RevokeLease(2))).number == 1
    assert (await writer.do(ReleaseLock("l", token=4))).grants[0].waiter_id == "waiter"
    assert (await writer.delete("", prefix=True)).number == 2
    facts = await writer.facts()
    assert (facts.keys, facts.bytes) == (0, 0)
    assert (await writer.do(Compact(facts.revision, 100))).outcome is Outcome.DONE


def test_the_names_of_the_parts():
    assert NAMES[0] == "muster:{s3}:state:default:meta"
    assert len(set(NAMES)) == len(PARTS) == 18
