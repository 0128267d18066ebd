"""Task ids."""

import os
import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from agent_node.ids import IdMint, new_task_id


def test_an_id_is_a_uuid_of_version_7_with_its_time() -> None:
    minted = uuid.UUID(IdMint(now_ms=lambda: 0x0189_0A5D_AC96, random_bytes=random.Random(7).randbytes).mint())
    assert (minted.version, minted.variant) == (7, uuid.RFC_4122)
    assert minted.int >> 80 == 0x0189_0A5D_AC96


def test_ids_grow_within_a_millisecond_beyond_its_counter_and_over_a_clock_that_steps_back() -> None:
    times = iter([1_000] * 10_000 + [5] * 10)
    mint = IdMint(now_ms=lambda: next(times), random_bytes=random.Random(7).randbytes)
    ids = [mint.mint() for _ in range(10_010)]
    assert all(before < after for before, after in pairwise(ids))


def test_random_bytes_fill_what_is_not_time() -> None:
    ids = [IdMint(now_ms=lambda: 1, random_bytes=lambda count, byte=byte: bytes([byte]) * count).mint() for byte in (0, 255)]
    assert ids == ["00000000-0001-7000-8000-000000000000", "00000000-0001-7000-bfff-ffffffffffff"]


def test_threads_share_the_mint() -> None:
    with ThreadPoolExecutor(4) as threads:
        ids = [each for some in threads.map(lambda _: [new_task_id() for _ in range(2_000)], range(4)) for each in some]
    assert len(set(ids)) == 8_000


def test_a_forked_child_mints_other_ids() -> None:
    new_task_id()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, " ".join(new_task_id()[19:] for _ in range(100)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = set(pipe.read().split())
    assert len(theirs) == 100
    assert not theirs & {new_task_id()[19:] for _ in range(100)}
