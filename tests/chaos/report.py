"""What a run came to, for people and for programs."""

from collections import Counter
from statistics import median
from typing import Any

from tests.chaos.run import Outcome
from tests.chaos.violations import Kind

SHOWN = 5  # violations of each kind


def text(outcome: Outcome) -> str:
    """Two tables: faults and violations."""
    seen = outcome.seen
    faults = Counter(fault.kind for fault in outcome.faults)
    violations = Counter(violation.kind for violation in outcome.violations)
    lines = ["", f"{'fault':<40}{'injected':>8}", *(f"  {kind:<38}{times:>8}" for kind, times in sorted(faults.items()))]
    lines += [f"  {'all':<38}{len(outcome.faults):>8}", "", f"{'violation':<40}{'found':>8}"]
    lines += [f"  {kind.value:<38}{violations[kind]:>8}" for kind in Kind]
    lines += [f"  {'all':<38}{len(outcome.violations):>8}", ""]
    operations = [operation for some in seen.operations.values() for operation in some]
    commits = sum(map(len, seen.journals.values()))
    epochs = sum(len({commit.epoch for commit in journal}) for journal in seen.journals.values())
    checked = {
        "tasks": len({one.task for one in seen.acknowledged}),
        "notes of handlers": len(seen.handled),
        "reads of tasks": len(seen.looked),
        "reads and cancels that nobody could answer": outcome.unavailable,
        "operations on state": len(operations),
        "of them without an answer": sum(operation.is_open for operation in operations),
        f"changes in {len(seen.watched)} watches": sum(len(watch.changes) for watch in seen.watched),
        f"commits of {epochs} owners": commits,
    }
    lines.append("checked: " + ", ".join(f"{number:,} {what}" for what, number in checked.items()))
    for which, times_s in (("", outcome.failover_s), (", with something else wrong meanwhile", outcome.beside_others_s)):
        if times_s:
            middle = f"{median(times_s):.2f} s, at most {max(times_s):.2f} s"
            lines.append(f"from an owner's kill -9 to its shards' next commit{which}: {middle} ({len(times_s)} shards)")
    lines += [f"skipped: {skipped}" for skipped in outcome.skipped]
    for kind in violations:
        some = [violation for violation in outcome.violations if violation.kind is kind]
        lines += [f"{kind.value}: {violation.text}" for violation in some[:SHOWN]]
    lines += [f"an error of the SDK: {error}" for error in outcome.refused[:SHOWN]]
    lines += [f"unexpected: {line}" for line in outcome.unexpected[:20]]
    lines += [f"traceback: {times} × {line}" for line, times in outcome.tracebacks.most_common(20)]
    return "\n".join(lines)


def record(outcome: Outcome) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "seed": outcome.seed,
        "seconds": outcome.seconds,
        "faults": len(outcome.faults),
        "faults_by_kind": dict(Counter(fault.kind for fault in outcome.faults)),
        "acknowledged": outcome.acknowledged,
        "acknowledged_tasks": len({one.task for one in outcome.seen.acknowledged}),
        "violations": len(outcome.violations),
        "violations_by_kind": dict(Counter(violation.kind.value for violation in outcome.violations)),
        "failover_s": _times(outcome.failover_s or outcome.beside_others_s),
        "failover_beside_other_faults_s": _times(outcome.beside_others_s),
        "unavailable": outcome.unavailable,
        "sdk_errors": len(outcome.refused),
        "unexpected_exits": len(outcome.unexpected),
        "skipped": outcome.skipped,
    }


def _times(seconds: list[float]) -> dict[str, Any]:
    if not seconds:
        return {"p50": None, "max": None, "shards": 0}
    return {"p50": round(median(seconds), 3), "max": round(max(seconds), 3), "shards": len(seconds)}
