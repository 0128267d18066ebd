"""Which ended tasks go: the rule, shared by every store. Pure."""

from collections.abc import Collection, Sequence

from coordinator.ports import EndedEntry, Retention


def count_expired(
    oldest: Sequence[EndedEntry],
    *,
    held: int,
    held_bytes: int,
    retention: Retention,
    date_ms: int,
    superseded: Collection[int] = (),
) -> int:
    """How many of the oldest ended tasks of a namespace a bound no longer covers.

    Args:
        oldest: the first lines of the index, in order: no more than these are counted.
        held: how many tasks the index lists, without superseded lines.
        held_bytes: the size of their records.
        retention: the bounds.
        date_ms: the store's time.
        superseded: the positions of lines that stand for nothing any more: they go as soon as nothing is before them.
    """
    expired = 0
    for entry in oldest:
        if entry.position in superseded:
            expired += 1
            continue
        age_ms = date_ms - entry.end_ms
        if age_ms < retention.min_age_ms:
            break
        if age_ms <= retention.max_age_ms and held <= retention.max_count and held_bytes <= retention.max_bytes:
            break
        held -= 1
        held_bytes -= entry.record_bytes
        expired += 1
    return expired
