"""What a soak came to: checks with their figures, for a person and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from coordinator.engine.sweeper import EXPIRED_PER_CALL
from tests.soak.disturbances import QUIET_FROM
from tests.soak.flatness import Trend, trend
from tests.soak.heap import HELD
from tests.soak.run import Seen

MIN_RATE_SHARE = 0.9  # of the planned rate: what falls short is another test
SLACK = 50  # elements of a container, threads' and gRPC's own included
MAX_DESCRIPTORS_MORE = 16  # an agent keeps two idle child processes, with some pipes each
MAX_THREADS_MORE = 40  # those of plain handlers stay: as many as ran at once at most
MAX_JOURNAL_SHARE = 4  # of what makes a snapshot due: entries go on while one is written and the journal trimmed
MAX_DISK_BYTES = 400_000_000  # the append-only file is rewritten at twice its size and 64 MB at least, and both exist meanwhile
OTHER_KEYS = 80  # head, journal, snapshots, index and counters of each shard and namespace
SWEPT_LATE_S = 10.0  # ended tasks go some seconds late
DISTURBED_LATE_S = 20.0  # while coordinators and stores end one soon after the other, and none of them comes to sweep for long

BOUNDED = {
    "Lane": "empty lanes stay until they are swept: at most 64, or twice those in use",
    "Fifo": "of a lane; LazyHeap and Starts likewise",
    "LazyHeap": "of a lane",
    "OrderedTasks": "of a Fifo",
    "Starts": "of a lane",
    "AgentClass.facts": "what a kind of agents can do, found here or by its agents first; the kinds are counted as AgentClass",
    "ReadyQueue.lanes": "the lanes",
    "LoadMap._lanes": "the lanes by task type",
    "Race": "what 4,096 keys a priority have had is remembered",
    "Share": "likewise",
    "Room": "buckets by load, at most 17 of each room; a class has one for each number of slots and each limited type of its lanes",
    "Results": "of a breaker: 32 that failed and 7 slots of its window; it goes when nothing has failed for a window, and its last has not",
    "Scheduler.sticky": "which agent served each of 100,000 sticky keys last",
    "TaskIndex": "64 blocks of task numbers with their types, or twice those with live tasks",
    "Statistics": "what happened by type and priority in the last hour, for 500 rows",
    "Row": "of the statistics",
    "History": "likewise: sixty minutes and six intervals of each row",
    "Walk": "the last snapshot's stays until the next",
    "TimerWheel": "slots whose deadlines were met early stay until they are over",
}
"""Classes and attributes that keep something on purpose: how much, and why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold."""

    name: str
    holds: bool
    found: str


def checks(seen: Seen) -> list[Check]:
    """All of them."""
    return [*_work(seen), *_memory(seen), *_store(seen), *_left_behind(seen)]


def _work(seen: Seen) -> Iterator[Check]:
    plan, findings = seen.plan, seen.findings
    rate = seen.submitted_in_time / plan.seconds
    yield Check("rate", rate >= MIN_RATE_SHARE * plan.rate, f"{rate:,.0f} tasks/s taken of {plan.rate:,.0f}")
    faults = [*findings.faults, *(fault for tally in seen.tallies for fault in tally["faults"])]
    ends = ", ".join(f"{count:,} {end}" for end, count in sorted(findings.ends.items()))
    found = f"{findings.taken:,} acknowledged, {findings.records:,} ended ({ends}), {findings.executions:,} executions, "
    found += f"{findings.repeated:,} tasks ran more than once, each for a reason"
    yield Check("audit", not faults, "; ".join([found, f"{findings.fault_count} faults", *faults[:10]] if faults else [found]))
    yield Check("nothing lives on", seen.live_after == 0, f"{seen.live_after} live tasks")
    yield Check("nothing is retained for ever", seen.retained_after == 0, f"{seen.retained_after} ended tasks after their retention")


def _memory(seen: Seen) -> Iterator[Check]:
    for name, samples in seen.processes.items():
        yield _flat(f"memory of {name}", trend([(sample.at_s, sample.rss_bytes) for sample in samples]), seen)


def _flat(name: str, found: Trend | None, seen: Seen) -> Check:
    if found is None:
        return Check(name, True, "too short a life to say")
    tasks = seen.plan.rate * found.seconds
    told = f"{found.median / 1e6:.1f} MB, {found.growth / 1e6:+.2f} MB over {found.seconds:.0f} s ({found.growth / tasks:+.1f} B a task)"
    return Check(name, found.is_flat, f"{told}, at most {found.allowed / 1e6:.1f}")


def _store(seen: Seen) -> Iterator[Check]:
    plan, samples = seen.plan, seen.store
    if not samples:
        yield Check("store", False, "it was never measured")
        return
    settled = [sample for sample in samples if sample.at_s >= samples[0].at_s + plan.retention_s]
    yield _flat("store's data", trend([(sample.at_s, sample.used_bytes) for sample in settled]), seen)
    journal, disk = max(sample.journal_bytes for sample in samples), max(sample.disk_bytes for sample in samples)
    allowed = MAX_JOURNAL_SHARE * plan.snapshot_after
    entries = max(sample.journal_entries for sample in samples)
    yield Check("journal", journal <= allowed, f"at most {journal / 1e6:.1f} MB in {entries:,} entries; {allowed / 1e6:.0f} MB are allowed")
    yield Check("disk", disk <= MAX_DISK_BYTES, f"at most {disk / 1e6:.0f} MB; {MAX_DISK_BYTES / 1e6:.0f} MB are allowed")
    quiet_s = samples[-1].at_s - plan.seconds * (1 - QUIET_FROM) + DISTURBED_LATE_S  # from here on nobody restarts the coordinator
    for name, some, late_s in (
        ("retention", samples, DISTURBED_LATE_S),
        ("retention in quiet", [sample for sample in samples if sample.at_s >= quiet_s], SWEPT_LATE_S),
    ):
        retained = max((sample.retained for sample in some), default=0)
        allowed_count = min(plan.retention_count, plan.rate * plan.retention_s) + plan.rate * late_s
        yield Check(name, retained <= allowed_count, f"at most {retained:,} ended tasks; {allowed_count:,.0f} are allowed")
    others = max(sample.keys - sample.retained for sample in samples)
    between = plan.rate + EXPIRED_PER_CALL  # the two numbers are read one after the other
    yield Check("keys", others <= OTHER_KEYS + between, f"at most {others} beside ended tasks")
    extra = seen.keys_after - seen.keys_before
    expected = {"journal", "snapshot", "counters", "head", "deployment"}  # written at first use
    left = {kind: count for kind, count in extra.items() if kind not in expected or count > 2}
    yield Check("keys left", not left, f"{dict(seen.keys_after)}")


def _left_behind(seen: Seen) -> Iterator[Check]:
    for name, (before, after) in seen.at_rest.items():
        if before is None or after is None:
            yield Check(f"{name} at rest", False, "it couldn't be measured")
            continue
        more = after.descriptors - before.descriptors
        most = max((sample.descriptors for sample in seen.processes.get(name, [])), default=0)
        found = f"{before.descriptors} before, {after.descriptors} after, at most {most}"
        yield Check(f"descriptors of {name}", more <= MAX_DESCRIPTORS_MORE, found)
        yield Check(
            f"threads of {name}", after.threads - before.threads <= MAX_THREADS_MORE, f"{before.threads} before, {after.threads} after"
        )
    for name, (earlier, later) in seen.counts.items():
        grown = {
            what: (earlier.get(what, 0), count)
            for what, count in later.items()
            if count > earlier.get(what, 0) + SLACK and not _is_bounded(what) and what not in HELD
        }
        told = "; ".join(f"{what}: {was} before, {now} after" for what, (was, now) in grown.items())
        yield Check(
            f"objects of {name}", not grown and bool(later), told or f"{sum(later.values())} in all, {sum(earlier.values())} before"
        )


def _is_bounded(what: str) -> bool:
    name = what.replace("[]", "")
    return name in BOUNDED or name.partition(".")[0] in BOUNDED


def record(seen: Seen, found: list[Check]) -> dict[str, Any]:
    """Everything, for a program."""
    return {
        "plan": asdict(seen.plan),
        "holds": all(check.holds for check in found),
        "checks": [asdict(check) for check in found],
        "happened": dict(seen.happened),
        "worst_stall_ms": seen.worst_stall_ms,
        "processes": {name: [asdict(sample) for sample in samples] for name, samples in seen.processes.items()},
        "store": [asdict(sample) for sample in seen.store],
        "counts": seen.counts,
    }


def text(seen: Seen, found: list[Check]) -> str:
    """The report for a person."""
    lines = [
        f"soak of {seen.plan.seconds:.0f} s at {seen.plan.rate:,.0f} tasks/s, seed {seen.plan.seed}",
        "happened: " + ", ".join(f"{count} × {what.replace('_', ' ')}" for what, count in sorted(seen.happened.items())),
        f"worst stall of the coordinator's loop since its last start: {seen.worst_stall_ms:.0f} ms",
        *(f"{'  ' if check.holds else '✗ '}{check.name:28} {check.found}" for check in found),
        "holds" if all(check.holds for check in found) else f"{sum(not check.holds for check in found)} checks FAILED",
    ]
    return "\n".join(lines)
