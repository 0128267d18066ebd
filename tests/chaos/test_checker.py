"""The checker finds every kind of violation, in a history that is right but for this one."""

import dataclasses
import json
from collections.abc import Callable

import pytest
from muster.v1 import common_pb2, event_pb2

from coordinator.core.events import Acknowledged as ArrivedEvent
from coordinator.core.events import Assigned, AttemptFailed, CancelRecorded, Commit, Completed, Cost, Disposition, Returned, Submitted
from coordinator.core.model import Failure, FailureKind, RetryPolicy, Spec
from tests.chaos.checker import check
from tests.chaos.evidence import Acknowledged, Change, Evidence, Handled, Looked, Told, Watched
from tests.chaos.violations import Kind
from tests.support.linearizability import Operation
from tests.support.state_model import Add, Read, Seen, Write, Written

NS = "red"
COMPLETED, CANCELLED = common_pb2.TASK_STATE_COMPLETED, common_pb2.TASK_STATE_CANCELLED
LOST_LEASE = Failure(FailureKind.LEASE_LOST, "the lease ended")


def answer(fence: int) -> bytes:
    return json.dumps({"fence": fence}).encode()


def record(fence: int) -> event_pb2.TaskRecord:
    outcome = common_pb2.Outcome(success=common_pb2.Success(payload=answer(fence)))
    return event_pb2.TaskRecord(state=COMPLETED, fence=fence, result_fence=fence, outcome=outcome.SerializeToString())


def submitted(number: int, task_id: str) -> Submitted:
    return Submitted(number, Spec(task_id, "work", 2, b"", RetryPolicy()))


def right() -> Evidence:
    """A task that was run twice, since its first agent lost its lease; one that was cancelled while it waited; and some state."""
    seen = Evidence(capacity={(NS, "a"): 1, (NS, "b"): 1})
    lost = AttemptFailed(1, LOST_LEASE, Disposition.RETRY, Cost.CRASH, 0, (), reported=False)
    events = [
        [submitted(1, "t"), Assigned(1, "a", 1, 10), submitted(2, "u")],
        [ArrivedEvent(1), lost, Assigned(1, "b", 2, 20)],
        [Completed(1, b"", ())],
        [CancelRecorded(2, "", ended=True)],
    ]
    seen.journals[3] = [Commit(place + 1, 7 + place, 1000 + place, [(NS, event) for event in some]) for place, some in enumerate(events)]
    seen.records[NS, "t"] = record(20)
    seen.records[NS, "u"] = event_pb2.TaskRecord(state=CANCELLED)
    seen.acknowledged = [Acknowledged((NS, "t"), 1.0), Acknowledged((NS, "u"), 1.1)]
    seen.told = [Told((NS, "t"), COMPLETED, answer(20), 5.0), Told((NS, "u"), CANCELLED, b"", 5.5)]
    seen.looked = [Looked((NS, "t"), common_pb2.TASK_STATE_RUNNING, 2.0, 2.1), Looked((NS, "t"), COMPLETED, 6.0, 6.1)]
    seen.handled = [
        Handled("began", NS, "t", 10, "a", 77),
        Handled("began", NS, "t", 20, "b", 78),
        Handled("over", NS, "t", 10, "a", 77),
        Handled("over", NS, "t", 20, "b", 78),
    ]
    seen.operations[NS] = [
        Operation("c", Write((("k/1", 1000),)), Written(1), 1.0, 2.0),
        Operation("c", Add("k/1", 1), Seen(1001, 2, 2), 3.0, 4.0),
        Operation("d", Write((("k/2", 2000),)), Written(3), 5.0, 6.0),
        Operation("d", Read(("k/1",)), (Seen(1001, 2, 2),), 7.0, 8.0),
    ]
    seen.changes[NS] = [Change(1, "k/1", b"1000"), Change(2, "k/1", b"1001"), Change(3, "k/2", b"2000")]
    seen.watched = [Watched(NS, "k/", 2, seen.changes[NS][1:], 3)]
    return seen


def kinds(seen: Evidence) -> set[Kind]:
    return {violation.kind for violation in check(seen)}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert check(right()) == []


Tamper = Callable[[Evidence], None]
TAMPERS: list[tuple[Kind, Tamper]] = []


def tamper(kind: Kind) -> Callable[[Tamper], Tamper]:
    def register(function: Tamper) -> Tamper:
        TAMPERS.append((kind, function))
        return function

    return register


def insert(seen: Evidence, entry: int, place: int, *events: object) -> None:
    commit = seen.journals[3][entry - 1]
    some = list(commit.events)
    some[place:place] = [(NS, event) for event in events]
    put(seen, entry, events=some)


def put(seen: Evidence, entry: int, **changed: object) -> None:
    commits = list(seen.journals[3])
    commits[entry - 1] = dataclasses.replace(commits[entry - 1], **changed)
    seen.journals[3] = commits


@tamper(Kind.LOST)
def an_acknowledged_task_is_not_in_the_journal(seen: Evidence) -> None:
    seen.acknowledged.append(Acknowledged((NS, "v"), 1.0))


@tamper(Kind.LOST)
def a_record_is_gone(seen: Evidence) -> None:
    del seen.records[NS, "t"]


@tamper(Kind.LOST)
def an_end_that_was_told_is_not_in_the_journal(seen: Evidence) -> None:
    seen.told.append(Told((NS, "v"), COMPLETED, b"", 1.0))


@tamper(Kind.LOST)
def an_acknowledged_write_is_gone(seen: Evidence) -> None:
    del seen.changes[NS][2]
    seen.watched = []


@tamper(Kind.LOST)
def an_acknowledged_addition_has_another_value(seen: Evidence) -> None:
    seen.changes[NS][1] = Change(2, "k/1", b"1002")
    seen.watched = []


@tamper(Kind.OUTCOMES)
def a_task_never_ended(seen: Evidence) -> None:
    put(seen, 3, events=[])


@tamper(Kind.OUTCOMES)
def a_task_ended_twice(seen: Evidence) -> None:
    insert(seen, 4, 1, CancelRecorded(2, "", ended=True))


@tamper(Kind.OUTCOMES)
def a_task_was_taken_twice(seen: Evidence) -> None:
    insert(seen, 2, 0, submitted(9, "t"))


@tamper(Kind.OUTCOMES)
def something_happens_after_the_end(seen: Evidence) -> None:
    insert(seen, 4, 0, Assigned(1, "a", 3, 30), Returned(1, "", Cost.NONE))


@tamper(Kind.OUTCOMES)
def the_record_has_another_end(seen: Evidence) -> None:
    seen.records[NS, "u"].state = common_pb2.TASK_STATE_FAILED


@tamper(Kind.OUTCOMES)
def a_client_was_told_another_end(seen: Evidence) -> None:
    seen.told[1] = Told((NS, "u"), common_pb2.TASK_STATE_FAILED, b"", 5.5)


@tamper(Kind.OUTCOMES)
def a_client_was_told_another_result(seen: Evidence) -> None:
    seen.told[0] = Told((NS, "t"), COMPLETED, answer(10), 5.0)


@tamper(Kind.OUTCOMES)
def two_clients_were_told_two_ends(seen: Evidence) -> None:
    seen.told.append(Told((NS, "u"), COMPLETED, b"", 5.6))


@tamper(Kind.TWO_LEASES)
def a_running_task_is_assigned(seen: Evidence) -> None:
    put(seen, 2, events=[(NS, Assigned(1, "b", 2, 20))])


@tamper(Kind.STALE_REPORT)
def the_first_agents_result_was_taken(seen: Evidence) -> None:
    seen.records[NS, "t"].outcome = record(10).outcome
    seen.told[0] = Told((NS, "t"), COMPLETED, answer(10), 5.0)


@tamper(Kind.STALE_REPORT)
def the_record_names_the_first_fence(seen: Evidence) -> None:
    seen.records[NS, "t"].result_fence = 10


@tamper(Kind.FENCE)
def a_fence_is_issued_again(seen: Evidence) -> None:
    events = list(seen.journals[3][1].events)
    put(seen, 2, events=[*events[:2], (NS, Assigned(1, "b", 2, 10))])
    seen.records[NS, "t"] = record(10)
    seen.told[0] = Told((NS, "t"), COMPLETED, answer(10), 5.0)
    seen.handled = []


@tamper(Kind.CAPACITY)
def an_agent_is_given_more_than_it_can(seen: Evidence) -> None:
    insert(seen, 1, 3, submitted(3, "w"), Assigned(3, "a", 1, 11))
    insert(seen, 4, 1, Completed(3, b"", ()))
    seen.records[NS, "w"] = record(11)


@tamper(Kind.CAPACITY)
def an_agent_runs_more_than_it_can(seen: Evidence) -> None:
    insert(seen, 2, 2, Assigned(1, "a", 2, 15), Returned(1, "", Cost.NONE))
    seen.handled.insert(1, Handled("began", NS, "t", 15, "a", 77))


@tamper(Kind.UNASSIGNED)
def an_agent_ran_what_another_was_given(seen: Evidence) -> None:
    seen.handled[1] = Handled("began", NS, "t", 20, "a", 79)


@tamper(Kind.UNASSIGNED)
def an_attempt_ran_twice(seen: Evidence) -> None:
    seen.handled.append(Handled("began", NS, "t", 20, "b", 79))


@tamper(Kind.JOURNAL_GAP)
def an_entry_is_missing(seen: Evidence) -> None:
    put(seen, 4, sequence=5)


@tamper(Kind.EPOCH)
def an_old_owner_wrote(seen: Evidence) -> None:
    put(seen, 4, epoch=8)


@tamper(Kind.DATE)
def a_date_went_back(seen: Evidence) -> None:
    put(seen, 4, date_ms=999)


@tamper(Kind.IMPOSSIBLE)
def a_task_completed_that_nobody_ran(seen: Evidence) -> None:
    put(seen, 4, events=[(NS, Completed(2, b"", ()))])
    seen.records[NS, "u"] = record(0)


@tamper(Kind.IMPOSSIBLE)
def a_task_ran_that_was_never_submitted(seen: Evidence) -> None:
    insert(seen, 4, 0, Assigned(8, "a", 1, 90))


@tamper(Kind.STALE_READ)
def a_read_comes_from_the_past(seen: Evidence) -> None:
    seen.looked.append(Looked((NS, "t"), common_pb2.TASK_STATE_RUNNING, 5.1, 5.2))


@tamper(Kind.STALE_READ)
def a_read_is_older_than_one_before(seen: Evidence) -> None:
    del seen.told[0]
    seen.looked.append(Looked((NS, "t"), common_pb2.TASK_STATE_PENDING, 6.2, 6.3))


@tamper(Kind.STATE_ORDER)
def a_read_of_state_is_stale(seen: Evidence) -> None:
    seen.operations[NS][3] = Operation("d", Read(("k/1",)), (Seen(1000, 1, 1),), 7.0, 8.0)


@tamper(Kind.REVISIONS)
def a_later_write_has_an_earlier_revision(seen: Evidence) -> None:
    seen.operations[NS][2] = Operation("d", Write((("k/2", 2000),)), Written(3), 1.2, 1.3)
    seen.operations[NS].append(Operation("d", Write((("k/3", 3000),)), Written(2), 5.0, 6.0))


@tamper(Kind.REVISIONS)
def the_store_has_them_out_of_order(seen: Evidence) -> None:
    seen.changes[NS].append(Change(2, "k/3", b"0"))
    seen.watched = []


@tamper(Kind.WATCH_GAP)
def a_watch_missed_a_change(seen: Evidence) -> None:
    seen.watched[0].changes = seen.watched[0].changes[1:]


@tamper(Kind.WATCH_TWICE)
def a_watch_saw_a_change_twice(seen: Evidence) -> None:
    seen.watched[0].changes = [*seen.watched[0].changes, seen.watched[0].changes[0]]


@tamper(Kind.WATCH_UNKNOWN)
def a_watch_saw_what_never_was(seen: Evidence) -> None:
    seen.watched[0].changes = [*seen.watched[0].changes, Change(4, "k/1", None)]


@tamper(Kind.WATCH_ORDER)
def a_watch_saw_it_in_another_order(seen: Evidence) -> None:
    seen.watched[0].changes = seen.watched[0].changes[::-1]


@pytest.mark.parametrize("kind,make", TAMPERS, ids=[f"{make.__name__}" for _, make in TAMPERS])
def test_it_finds(kind: Kind, make: Tamper) -> None:
    seen = right()
    make(seen)
    assert kinds(seen) == {kind} or (kind in kinds(seen) and make in SEVERAL), check(seen)


# These can't be without another.
SEVERAL = {
    something_happens_after_the_end,
    a_task_was_taken_twice,
    a_task_completed_that_nobody_ran,
    a_later_write_has_an_earlier_revision,
    an_attempt_ran_twice,
    two_clients_were_told_two_ends,
    a_running_task_is_assigned,
    a_fence_is_issued_again,
    the_first_agents_result_was_taken,
}


def test_every_kind_is_shown_to_be_found() -> None:
    assert {kind for kind, _ in TAMPERS} == set(Kind)
