"""Reads what a run left behind, and finds what must never be. It knows the journal's format and what is promised, and nothing of how the
coordinator decides.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from muster.v1 import common_pb2

from tests.chaos.evidence import Evidence, TaskKey
from tests.chaos.lives import Lives, follow
from tests.chaos.violations import Kind, Violation
from tests.support.linearizability import TooHardError
from tests.support.state_model import Seen, Write, Written, find_state_violation, keys_of

__all__ = ["CHECKS", "Kind", "Undecided", "Violation", "check"]

ENDED = (common_pb2.TASK_STATE_COMPLETED, common_pb2.TASK_STATE_FAILED, common_pb2.TASK_STATE_CANCELLED)


def check(seen: Evidence) -> list[Violation]:
    """Everything that is wrong; empty when nothing is."""
    lives = follow(seen)
    found = list(lives.violations)
    for one in CHECKS:
        found += one(seen, lives)
    return found


def acknowledged_tasks_have_one_outcome(seen: Evidence, lives: Lives) -> Iterator[Violation]:
    """G1, G2: what was acknowledged is there, has ended once, and its record says how."""
    known = {one.task for one in seen.acknowledged}
    for task in known - lives.of.keys():
        yield Violation(Kind.LOST, f"task {task} was acknowledged and is not in the journal")
    for task, life in lives.of.items():
        record = seen.records.get(task)
        if len(life.ends) != 1:
            yield Violation(Kind.OUTCOMES, f"task {task} has {len(life.ends)} outcomes: {life.ends}")
        elif record is None:
            yield Violation(Kind.LOST, f"task {task} ended {life.ends[0]} and has no record")
        elif common_pb2.TaskState.Name(record.state) != f"TASK_STATE_{life.ends[0]}":
            yield Violation(Kind.OUTCOMES, f"task {task} ended {life.ends[0]}, and its record says {record.state}")


def clients_were_told_the_outcome(seen: Evidence, lives: Lives) -> Iterator[Violation]:
    """G1, G2: whoever was told a task's end was told the one that there is, and nobody two of them."""
    first: dict[TaskKey, tuple[int, bytes]] = {}
    for told in seen.told:
        record = seen.records.get(told.task)
        if first.setdefault(told.task, (told.state, told.payload)) != (told.state, told.payload):
            yield Violation(Kind.OUTCOMES, f"clients were told two ends of task {told.task}: {first[told.task]} and {told}")
        elif told.task not in lives.of:
            yield Violation(Kind.LOST, f"a client was told the end of task {told.task}, which is not in the journal")
        elif record is not None and record.state != told.state:
            yield Violation(Kind.OUTCOMES, f"a client was told {told}, and the record says {record.state}")
        elif record is not None and told.state == common_pb2.TASK_STATE_COMPLETED and _outcome(record.outcome) != told.payload:
            yield Violation(Kind.OUTCOMES, f"a client was told {told.payload!r} of task {told.task}, and the record is another")


def no_stale_report_was_accepted(seen: Evidence, lives: Lives) -> Iterator[Violation]:
    """G2: a result is that of the last attempt. Handlers answer with the fence under which they ran."""
    for task, record in seen.records.items():
        life = lives.of.get(task)
        if life is None or record.state != common_pb2.TASK_STATE_COMPLETED:
            continue
        fence = json.loads(_outcome(record.outcome))["fence"]
        if not fence == record.result_fence == record.fence == (life.fences or [0])[-1]:
            yield Violation(
                Kind.STALE_REPORT,
                f"task {task} has the result of fence {fence}; its attempts: {life.fences}; accepted: {record.result_fence}",
            )


def _outcome(packed: bytes) -> bytes:
    return common_pb2.Outcome.FromString(packed).success.payload


def executions_were_assigned(seen: Evidence, lives: Lives) -> Iterator[Violation]:
    """G2, G3: what ran was assigned, to this very agent, under this fence, and no agent ran more than it can."""
    running: Counter[tuple[str, str, int]] = Counter()
    ran: set[tuple[TaskKey, int]] = set()
    for line in seen.handled:
        task, who = (line.namespace, line.task_id), (line.namespace, line.agent, line.pid)
        if line.event != "began":
            running[who] -= 1
            continue
        running[who] += 1
        life = lives.of.get(task)
        if life is None or (line.fence, line.agent) not in zip(life.fences, life.agents, strict=True):
            yield Violation(Kind.UNASSIGNED, f"agent {line.agent} ran task {task} under fence {line.fence}, which it wasn't given")
        if (task, line.fence) in ran:
            yield Violation(Kind.UNASSIGNED, f"task {task} ran twice under fence {line.fence}")
        ran.add((task, line.fence))
        capacity = seen.capacity.get((line.namespace, line.agent), 0)
        if running[who] > capacity:
            yield Violation(Kind.CAPACITY, f"agent {line.agent} ran {running[who]} tasks at once, and can {capacity}")


def no_read_was_stale(seen: Evidence, lives: Lives) -> Iterator[Violation]:
    """An end that somebody was told, or had read, stays one for every read that begins later."""
    ended_s: dict[TaskKey, float] = {}
    for told in seen.told:
        ended_s[told.task] = min(told.at_s, ended_s.get(told.task, told.at_s))
    for look in seen.looked:
        if look.state in ENDED:
            ended_s[look.task] = min(look.returned_s, ended_s.get(look.task, look.returned_s))
    for look in seen.looked:
        if look.state not in ENDED and look.called_s > ended_s.get(look.task, float("inf")):
            yield Violation(Kind.STALE_READ, f"{look} came {look.called_s - ended_s[look.task]:.3f} s after the task's end was known")


def state_is_linearizable(seen: Evidence, lives: Lives) -> Iterator[Violation]:
    """G5: all that concurrent clients were answered has one order."""
    for namespace, operations in seen.operations.items():
        try:
            violation = find_state_violation(operations)
        except TooHardError as error:
            raise Undecided(f"namespace {namespace}: {error}") from error
        if violation is not None:
            yield Violation(Kind.STATE_ORDER, f"namespace {namespace}: {violation}")


class Undecided(Exception):
    """The evidence is too much to say whether it is right."""


def revisions_grew(seen: Evidence, lives: Lives) -> Iterator[Violation]:
    """G5: a write that began after another had been answered has a higher revision, whatever the keys."""
    for namespace, operations in seen.operations.items():
        written = [operation for operation in operations if isinstance(operation.call, Write) and isinstance(operation.answer, Written)]
        moments = [(operation.called_s, 1, operation) for operation in written]
        moments += [(operation.returned_s, 0, operation) for operation in written]
        highest = 0
        for _, is_call, operation in sorted(moments, key=lambda moment: moment[:2]):
            if not is_call:
                highest = max(highest, operation.answer.revision)
            elif operation.answer.revision <= highest:
                yield Violation(Kind.REVISIONS, f"in {namespace} {operation} came after revision {highest} had been answered")
        last = 0
        for change in seen.changes.get(namespace, ()):
            if change.revision < last:
                yield Violation(Kind.REVISIONS, f"in {namespace} {change} lies behind revision {last}")
            last = change.revision


def acknowledged_writes_are_there(seen: Evidence, lives: Lives) -> Iterator[Violation]:
    """G1: every write that was answered is a change in the store, with the value that was written."""
    for namespace, operations in seen.operations.items():
        there = {(change.revision, change.key): change.value for change in seen.changes.get(namespace, ())}
        for operation in operations:
            for revision, key, value in _written(operation.call, operation.answer):
                if revision >= seen.kept_from.get(namespace, 1) and there.get((revision, key)) != value:
                    found = there.get((revision, key))
                    yield Violation(Kind.LOST, f"in {namespace} {operation} was answered, and the store has {found!r} at this revision")


def _written(call: object, answer: object) -> Iterable[tuple[int, str, bytes]]:
    if isinstance(call, Write) and isinstance(answer, Written):
        return [(answer.revision, key, b"%d" % value) for key, value in call.puts]
    if isinstance(answer, Seen):  # of an addition
        return [(answer.revision, key, b"%d" % answer.value) for key in keys_of(call)]
    return []


def watches_saw_everything(seen: Evidence, lives: Lives) -> Iterator[Violation]:
    """G5: a watch delivers every revision from its start revision, in order, each once."""
    for watch in seen.watched:
        must = [
            change
            for change in seen.changes.get(watch.namespace, ())
            if change.key.startswith(watch.prefix) and watch.start_revision <= change.revision <= watch.until_revision
        ]
        if watch.changes == must:
            continue
        where = f"the watch of {watch.prefix!r} in {watch.namespace} from {watch.start_revision}"
        twice = [change for change, times in Counter(watch.changes).items() if times > 1]
        missed = [change for change in must if change not in set(watch.changes)]
        made_up = [change for change in watch.changes if change not in set(must)]
        kinds = ((Kind.WATCH_TWICE, twice), (Kind.WATCH_GAP, missed), (Kind.WATCH_UNKNOWN, made_up))
        for kind, changes in kinds:
            if changes:
                yield Violation(kind, f"{where}: {len(changes)} changes, such as {changes[0]}")
        if not (twice or missed or made_up):
            yield Violation(Kind.WATCH_ORDER, f"{where} saw its changes out of order")


CHECKS: list[Callable[[Evidence, Lives], Iterator[Violation]]] = [
    acknowledged_tasks_have_one_outcome,
    clients_were_told_the_outcome,
    no_stale_report_was_accepted,
    executions_were_assigned,
    no_read_was_stale,
    state_is_linearizable,
    revisions_grew,
    acknowledged_writes_are_there,
    watches_saw_everything,
]
