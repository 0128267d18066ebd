"""When submits must wait for room in the store, and what counts."""

import asyncio

import pytest

from coordinator.engine.room import MIN_FREE_DISK_BYTES, PERIOD_S, StoreRoom, watch_room
from coordinator.ports import StoreFullness, StoreOutage
from tests.support.virtual_loop import run_virtually

LIMIT = 1_000_000


def seen(room, used, *, limit=LIMIT, disk=None, reserve=0):
    room.seen(used_bytes=used, limit_bytes=limit, free_disk_bytes=disk, reserve_bytes=reserve)
    return room.refusal()


def test_without_a_look_and_without_a_limit_there_is_room():
    room = StoreRoom()
    assert room.refusal() is None
    assert seen(room, 10**15, limit=0) is None
    assert not room.is_tight()


def test_submits_stop_at_80_percent():
    room = StoreRoom()
    assert seen(room, 799_999) is None
    refusal = seen(room, 800_000)
    assert (refusal.limit, refusal.metadata["used"], refusal.metadata["allowed"]) == ("store_memory", "800000", "800000")
    assert refusal.retry_after_s > 0
    assert "800000 bytes of 1000000" in refusal.message
    assert seen(room, 799_999) is None


def test_the_next_snapshot_counts():
    room = StoreRoom()
    assert seen(room, 500_000, reserve=299_999) is None
    assert seen(room, 500_000, reserve=300_000) is not None


def test_what_is_written_between_two_looks_counts():
    room = StoreRoom()
    assert seen(room, 700_000) is None
    room.wrote(49_999)
    assert room.refusal() is None
    room.wrote(1)
    assert room.refusal() is not None
    assert seen(room, 700_000) is None, "a look knows better"


def test_room_is_made_before_submits_are_refused():
    room = StoreRoom()
    assert seen(room, 700_000) is None
    assert room.is_tight()
    seen(room, 699_999)
    assert not room.is_tight()


def test_a_snapshot_must_free_a_32nd_where_room_is_tight():
    room = StoreRoom()
    seen(room, 700_000)
    assert room.worthwhile_bytes() == LIMIT // 32


def test_a_small_store_has_a_short_journal():
    room = StoreRoom()
    assert room.journal_bytes(10**9) == 10**9
    seen(room, 0, limit=16_000)
    assert room.journal_bytes(10**9) == 1000
    assert room.journal_bytes(10) == 10


def test_submits_stop_when_the_disk_is_nearly_full():
    room = StoreRoom()
    assert seen(room, 0, disk=MIN_FREE_DISK_BYTES) is None
    refusal = seen(room, 0, disk=MIN_FREE_DISK_BYTES - 1)
    assert (refusal.limit, refusal.metadata["allowed"]) == ("free_disk", str(MIN_FREE_DISK_BYTES))


@pytest.mark.parametrize("reserve", [0, 300_000])
def test_it_is_looked_at_again_and_again_and_an_outage_changes_nothing(reserve):
    class Gauge:
        used = 500_000
        is_out = False

        async def fullness(self):
            if self.is_out:
                raise StoreOutage("gone")
            return StoreFullness(used_bytes=self.used, limit_bytes=LIMIT, free_disk_bytes=None)

    async def story(loop):
        room, gauge = StoreRoom(), Gauge()
        watching = asyncio.create_task(watch_room(room, gauge, lambda: reserve))
        await asyncio.sleep(0.1)
        assert (room.refusal() is not None) == (reserve > 0)
        gauge.used = 900_000
        await asyncio.sleep(PERIOD_S)
        assert room.refusal() is not None
        gauge.is_out = True
        await asyncio.sleep(10)
        assert room.refusal() is not None
        gauge.is_out, gauge.used = False, 0
        await asyncio.sleep(PERIOD_S)
        assert room.refusal() is None
        watching.cancel()

    run_virtually(story)
