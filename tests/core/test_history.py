"""What a task remembers: only what its fields don't say, bounded, the same after a replay, and all of it in its record."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muster.v1 import event_pb2

from coordinator import convert
from coordinator.core.events import (
    Acknowledged,
    Assigned,
    AttemptFailed,
    CancelRecorded,
    CheckpointStored,
    ChunkStored,
    Completed,
    Cost,
    Disposition,
    Returned,
    Submitted,
)
from coordinator.core.evolve import evolve
from coordinator.core.history import FIRST_ENTRIES, LAST_ENTRIES, MAX_MESSAGE_CHARS, HistoryKind
from coordinator.core.model import Failure, FailureKind, TaskState
from coordinator.core.sizes import size_of_record
from coordinator.core.state import State
from tests.support.core_world import FAILED, GIVEN_BACK, CoreWorld, spec_of

MOST = FIRST_ENTRIES + LAST_ENTRIES


class Life:
    """One task, to which things happen a second apart."""

    def __init__(self):
        self.state = State()
        self.date_ms = 0
        self.fence = 0
        self.task = self.happens(Submitted(1, spec_of("task")))

    def happens(self, event):
        self.date_ms += 1000
        return evolve(self.state, event, self.date_ms)

    def assigned(self, attempt=1):
        self.fence += 1
        self.happens(Assigned(1, f"agent{self.fence}", attempt, self.fence))

    def fails(self, disposition=Disposition.RETRY, cost=Cost.RETRY, *, backoff_ms=0, **failure):
        failure = Failure(**{"kind": FailureKind.APPLICATION, "message": "it broke"} | failure)
        ready_at_ms = self.date_ms + 1000 + backoff_ms if disposition is Disposition.RETRY else 0
        self.happens(AttemptFailed(1, failure, disposition, cost, ready_at_ms, (), reported=True))

    def told(self, *fields):
        return [tuple(getattr(entry, field) for field in fields) for entry in self.task.history]


@pytest.fixture
def life():
    return Life()


def test_a_task_that_runs_once_and_succeeds_remembers_nothing(life):
    life.assigned()
    life.happens(Acknowledged(1))
    life.happens(ChunkStored(1, 0, b"piece"))
    life.happens(Completed(1, b"done", ()))
    assert life.task.history == ()


def test_an_attempt_that_failed_is_told_with_its_agent_its_cost_and_its_backoff(life):
    life.assigned()
    life.fails(backoff_ms=700)
    (entry,) = life.task.history
    assert (entry.date_ms, entry.kind, entry.state) == (3000, HistoryKind.ATTEMPT_FAILED, TaskState.RETRYING)
    assert (entry.run, entry.attempt, entry.fence, entry.agent, entry.started_ms) == (1, 1, 1, "agent1", 2000)
    assert (entry.failure.message, entry.cost, entry.ready_at_ms) == ("it broke", Cost.RETRY, 3700)


def test_a_lost_attempt_is_followed_by_no_backoff(life):
    life.assigned()
    life.fails(cost=Cost.CRASH, kind=FailureKind.LEASE_LOST)
    assert life.told("cost", "ready_at_ms") == [(Cost.CRASH, 0)]


@pytest.mark.parametrize(
    "disposition,state", [(Disposition.FAIL, TaskState.FAILED), (Disposition.CANCEL, TaskState.CANCELLED)], ids=["failed", "cancelled"]
)
def test_the_last_failure_costs_no_retry_that_there_isnt(life, disposition, state):
    life.assigned()
    life.fails(disposition)
    assert life.told("state", "cost") == [(state, Cost.NONE)]
    assert life.task.retries == 0


@pytest.mark.parametrize("cost", [Cost.NONE, Cost.DELIVERY])
def test_a_returned_attempt_is_told_under_its_own_number_and_fence(life, cost):
    life.assigned()
    life.happens(Returned(1, "draining", cost))
    life.assigned()
    life.happens(Returned(1, "draining", cost))
    assert life.told("kind", "attempt", "fence", "agent", "reason", "cost", "state") == [
        (HistoryKind.ATTEMPT_RETURNED, 1, fence, f"agent{fence}", "draining", cost, TaskState.PENDING) for fence in (1, 2)
    ]


def test_a_cancel_is_told_with_the_attempt_that_it_meets(life):
    life.assigned()
    life.happens(CancelRecorded(1, "too late", ended=False))
    assert life.told("kind", "state", "fence", "reason") == [(HistoryKind.CANCEL_REQUESTED, TaskState.RUNNING, 1, "too late")]


def test_a_cancel_of_a_waiting_task_is_nobodys(life):
    life.assigned()
    life.fails()
    life.happens(CancelRecorded(1, "too late", ended=True))
    assert life.told("state", "attempt", "fence", "agent", "started_ms")[1:] == [(TaskState.CANCELLED, 0, 0, "", 0)]


def test_a_task_that_is_given_up_while_it_waits_says_so(life):
    life.fails(Disposition.FAIL, Cost.NONE, message="its deadline has passed")
    assert life.told("kind", "state", "attempt") == [(HistoryKind.GIVEN_UP, TaskState.FAILED, 0)]


def test_checkpoints_of_an_attempt_are_counted_and_not_listed(life):
    life.assigned()
    for sequence in range(50):
        life.happens(CheckpointStored(1, sequence, b"point"))
    life.fails()
    life.assigned(2)
    life.happens(CheckpointStored(1, 1, b"point"))
    kinds = [HistoryKind.CHECKPOINTS_STORED, HistoryKind.ATTEMPT_FAILED, HistoryKind.CHECKPOINTS_STORED]
    assert life.told("kind") == [(kind,) for kind in kinds]
    assert life.told("checkpoints", "fence", "date_ms")[::2] == [(50, 1, 52_000), (1, 2, 55_000)]


def test_a_copy_of_a_task_keeps_its_history_as_it_was(life):
    life.assigned()
    life.happens(CheckpointStored(1, 1, b"point"))
    copy = life.task.snapshot()
    life.happens(CheckpointStored(1, 2, b"point"))
    life.fails()
    assert [entry.checkpoints for entry in copy.history] == [1]


def test_messages_are_shortened_and_stack_traces_left_out(life):
    life.assigned()
    life.fails(message="m" * 4096, stack_trace="s" * 9999, error_type="ValueError")
    life.assigned(2)
    life.fails(message="short", stack_trace="s")
    life.assigned(3)
    life.happens(Returned(1, "r" * 4096, Cost.NONE))
    failed, again, returned = life.task.history
    assert failed.failure == Failure(FailureKind.APPLICATION, "m" * (MAX_MESSAGE_CHARS - 1) + "…", "ValueError")
    assert again.failure == Failure(FailureKind.APPLICATION, "short")
    assert returned.reason == "r" * (MAX_MESSAGE_CHARS - 1) + "…"
    assert life.task.failure.stack_trace, "the task's own failure is whole"


@pytest.mark.parametrize("surplus", [0, 1, 2, 500])
def test_a_long_story_loses_its_middle_and_says_how_much(life, surplus):
    for attempt in range(1, MOST + surplus + 1):
        life.assigned(attempt)
        life.fails()
    kept = [*range(1, FIRST_ENTRIES + 1), *range(FIRST_ENTRIES + surplus + 1, MOST + surplus + 1)]
    assert life.told("attempt", "omitted") == [(attempt, surplus * (place == FIRST_ENTRIES)) for place, attempt in enumerate(kept)]


things = st.lists(st.sampled_from(["fails", "crashes", "returned", "undelivered", "checkpoint", "cancel"]), max_size=80)


@given(things)
def test_any_history_is_bounded_and_comes_back_from_its_record(happening):
    life = Life()
    count = 0
    life.assigned()
    for thing in happening:
        before = life.task.history[-1] if life.task.history else None
        match thing:
            case "checkpoint":
                life.happens(CheckpointStored(1, 1, b"point"))
                count -= before is not None and before.kind is HistoryKind.CHECKPOINTS_STORED and before.fence == life.fence
            case "cancel":
                life.happens(CancelRecorded(1, "", ended=False))
            case "returned" | "undelivered":
                life.happens(Returned(1, "", Cost.NONE if thing == "returned" else Cost.DELIVERY))
                life.assigned()
            case _:
                life.fails(cost=Cost.RETRY if thing == "fails" else Cost.CRASH, backoff_ms=5, retry_after_s=0.25)
                life.assigned()
        count += 1
    entries = life.task.history
    assert len(entries) == min(count, MOST)
    assert sum(entry.omitted for entry in entries) == max(0, count - MOST)
    life.happens(Completed(1, b"", ()))
    record = event_pb2.TaskRecord.FromString(convert.record_out(life.task))
    assert convert.history_in(record.history) == entries


def test_a_record_is_as_large_as_it_is_said_to_be(life):
    for attempt in range(1, 100):
        life.assigned(attempt)
        life.fails(message="m" * 300)
    life.happens(CancelRecorded(1, "", ended=True))
    said, size = size_of_record(life.task), len(convert.record_out(life.task))
    assert size <= said <= 2 * size


def test_a_takeover_changes_no_history():
    world = CoreWorld()
    world.join("ann")
    world.submit("task")
    world.finish("ann", "task", FAILED)
    world.advance(10)
    world.finish("ann", "task", GIVEN_BACK)
    lived = world.task("task").history
    assert [entry.kind.name for entry in lived] == ["ATTEMPT_FAILED", "ATTEMPT_RETURNED"]
    world.crash()
    assert world.task("task").history == lived
