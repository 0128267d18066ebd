"""A page of ended tasks reads no more records than it can send."""

import pytest

from coordinator.ports import EndedEntry
from coordinator.rpc.task_list import entries_within


@pytest.mark.parametrize("sizes, taken", [([], 0), ([5], 1), ([100], 1), ([4, 4, 2, 1], 3), ([0, 0, 11], 2)])
def test_entries_are_taken_while_their_records_fit_and_one_at_least(sizes, taken):
    entries = [EndedEntry(position=index, task_id=f"task-{index}", end_ms=1, record_bytes=size) for index, size in enumerate(sizes)]
    assert list(entries_within(entries, 10)) == entries[:taken]
