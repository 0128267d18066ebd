"""What the durable state allows, and that it is unchanged by what it doesn't allow."""

import copy
from types import SimpleNamespace

import pytest

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
from coordinator.core.evolve import IllegalEvent, evolve, merge_usage
from coordinator.core.model import Failure, FailureKind, TaskState, Usage
from coordinator.core.state import State
from tests.support.core_world import durable, spec_of

BROKEN = Failure(FailureKind.APPLICATION, "it broke")
SUBMITTED = Submitted(1, spec_of("task"))
ASSIGNED = Assigned(1, "agent", 1, 7)
COMPLETED = Completed(1, b"done", ())
CANCELLED_WAITING = CancelRecorded(1, "asked for", ended=True)


def failed(disposition=Disposition.RETRY, cost=Cost.RETRY, *, reported=True):
    return AttemptFailed(1, BROKEN, disposition, cost, 5000, (), reported)


def state_after(*events):
    state = State()
    for date_ms, event in enumerate(events, start=1000):
        evolve(state, event, date_ms)
    return state


LIFE = {
    "nothing": [],
    "PENDING": [SUBMITTED],
    "RUNNING": [SUBMITTED, ASSIGNED],
    "RETRYING": [SUBMITTED, ASSIGNED, failed()],
    "COMPLETED": [SUBMITTED, ASSIGNED, COMPLETED],
    "FAILED": [SUBMITTED, ASSIGNED, failed(Disposition.FAIL)],
    "CANCELLED": [SUBMITTED, CANCELLED_WAITING],
}
ENDED = ["COMPLETED", "FAILED", "CANCELLED"]
WAITING = ["PENDING", "RETRYING"]
NEXT = Assigned(1, "agent", 2, 8)

ILLEGAL = [
    *((stage, SUBMITTED) for stage in ["PENDING", "RUNNING", "RETRYING", *ENDED]),
    *((stage, NEXT) for stage in ["nothing", "RUNNING", *ENDED]),
    ("RETRYING", Assigned(1, "agent", 2, 7)),  # a fence must grow
    ("RETRYING", Assigned(1, "agent", 2, 6)),
    *(
        (stage, event)
        for stage in ["nothing", *WAITING, *ENDED]
        for event in [
            Acknowledged(1),
            COMPLETED,
            failed(),
            Returned(1, "draining", Cost.NONE),
            CancelRecorded(1, "asked for", ended=False),
            CheckpointStored(1, 1, b"point"),
            ChunkStored(1, 0, b"piece"),
        ]
    ),
    *((stage, CANCELLED_WAITING) for stage in ["nothing", "RUNNING", *ENDED]),
    ("RUNNING", Completed(2, b"done", ())),  # nobody's number
    ("RUNNING", SimpleNamespace(number=1)),  # nothing that this release knows
]


@pytest.mark.parametrize("stage,event", ILLEGAL, ids=[f"{stage}-{type(event).__name__}-{n}" for n, (stage, event) in enumerate(ILLEGAL)])
def test_an_event_that_does_not_fit_changes_nothing(stage, event):
    state = state_after(*LIFE[stage])
    before = copy.deepcopy((durable(state), state.next_number, sorted(state.by_number), {k: repr(v) for k, v in state.ended.items()}))
    with pytest.raises(IllegalEvent):
        evolve(state, event, 9999)
    assert (durable(state), state.next_number, sorted(state.by_number), {k: repr(v) for k, v in state.ended.items()}) == before


def test_a_chunk_that_goes_back_is_refused():
    state = state_after(*LIFE["RUNNING"], ChunkStored(1, 0, b"abc"))
    with pytest.raises(IllegalEvent):
        evolve(state, ChunkStored(1, 2, b"x"), 9999)
    assert bytes(state.tasks["task"].chunks) == b"abc"


def test_an_id_that_lives_is_refused_under_another_number():
    state = state_after(*LIFE["PENDING"])
    with pytest.raises(IllegalEvent):
        evolve(state, Submitted(2, spec_of("task")), 9999)
    assert state.next_number == 2


@pytest.mark.parametrize("stage", [stage for stage in LIFE if stage != "nothing"])
def test_a_task_is_live_until_it_ends(stage):
    state = state_after(*LIFE[stage])
    task = state.find("task")
    assert task.state.name == stage
    assert ("task" in state.tasks) == (task.number in state.by_number) == (stage not in ENDED)
    assert ("task" in state.ended) == (stage in ENDED)
    assert bool(task.ended_ms) == (stage in ENDED)


def test_a_returned_attempt_keeps_its_number_and_a_retried_one_does_not():
    returned = state_after(*LIFE["RUNNING"], Returned(1, "draining", Cost.NONE)).tasks["task"]
    assert (returned.state, returned.attempt, returned.fence, returned.undelivered) == (TaskState.PENDING, 0, 7, 0)
    retried = state_after(*LIFE["RETRYING"]).tasks["task"]
    assert (retried.state, retried.attempt, retried.retries, retried.ready_at_ms) == (TaskState.RETRYING, 1, 1, 5000)


@pytest.mark.parametrize(
    "cost,counts", [(Cost.NONE, (0, 0, 0)), (Cost.RETRY, (1, 0, 0)), (Cost.CRASH, (0, 1, 0)), (Cost.DELIVERY, (0, 0, 1))]
)
def test_an_attempt_costs_what_the_event_says(cost, counts):
    task = state_after(*LIFE["RUNNING"], failed(cost=cost)).tasks["task"]
    assert (task.retries, task.crashes, task.undelivered) == counts


def test_the_fence_whose_result_was_taken_is_remembered():
    assert state_after(*LIFE["RETRYING"]).tasks["task"].result_fence == 7
    assert state_after(*LIFE["RUNNING"], Returned(1, "draining", Cost.NONE)).tasks["task"].result_fence == 7
    assert state_after(*LIFE["COMPLETED"]).ended["task"].result_fence == 7
    assert state_after(*LIFE["RUNNING"], failed(reported=False)).tasks["task"].result_fence == 0, "nobody reported anything"
    assert state_after(*LIFE["RUNNING"], Returned(1, "lost", Cost.DELIVERY)).tasks["task"].result_fence == 0


def test_a_new_attempt_begins_with_the_checkpoint_and_without_the_output():
    events = [*LIFE["RUNNING"], CheckpointStored(1, 1, b"point"), ChunkStored(1, 0, b"piece"), Acknowledged(1), failed(), NEXT]
    task = state_after(*events).tasks["task"]
    assert (task.checkpoint, task.chunks, task.chunk_end, task.acknowledged) == (b"point", None, 0, False)


def test_usage_adds_up_by_model():
    known = [Usage("small", 1, 2, 1), Usage("large", 10, 20, 1)]
    assert merge_usage(known, [Usage("large", 1, 1, 1), Usage("new", 5, 5, 1)]) == (
        Usage("small", 1, 2, 1),
        Usage("large", 11, 21, 2),
        Usage("new", 5, 5, 1),
    )


def test_settling_forgets_that_end_and_no_later_one():
    state = state_after(*LIFE["COMPLETED"])
    earlier = state.ended["task"]
    state.settle(earlier)
    assert state.find("task") is None
    evolve(state, Submitted(2, spec_of("task")), 9999)
    evolve(state, CancelRecorded(2, "asked for", ended=True), 9999)
    state.settle(earlier)
    assert state.find("task").number == 2
