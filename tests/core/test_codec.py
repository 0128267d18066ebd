"""Events to bytes and back: nothing is lost, and what is replayed is what was lived through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muster.v1 import event_pb2

from coordinator.core.events import (
    Acknowledged,
    Assigned,
    AttemptFailed,
    CancelRecorded,
    CheckpointStored,
    ChunkStored,
    Commit,
    Completed,
    Cost,
    Disposition,
    NamespaceCreated,
    Returned,
    Submitted,
)
from coordinator.core.model import Failure, FailureKind, RetryPolicy, Spec, Usage
from coordinator.journal.codec import FORMAT_VERSION, JournalTooNew, decode, encode
from tests.support.core_world import spec_of

EPOCH = 1_700_000_000_000  # milliseconds since 1970, as a store would give out
DEFAULTS = RetryPolicy(max_retries=7, initial_backoff_s=0.25, max_backoff_s=12.5, multiplier=1.5, max_crashes=2)

numbers = st.integers(1, 2**40)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
usages = st.lists(st.builds(Usage, names, st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**20)), max_size=2).map(tuple)
failures = st.builds(
    Failure,
    kind=st.sampled_from(FailureKind),
    message=texts,
    error_type=texts,
    stack_trace=texts,
    non_retryable=st.booleans(),
    retry_after_s=st.none() | st.integers(0, 10**6).map(lambda ms: ms / 1000),
)
task_events = st.one_of(
    st.builds(Assigned, numbers, names, st.integers(1, 100), st.integers(EPOCH << 20, (EPOCH << 20) + 2**40)),
    st.builds(Acknowledged, numbers),
    st.builds(Completed, numbers, st.just(b""), st.just(())),
    st.builds(
        AttemptFailed,
        numbers,
        failures,
        st.sampled_from(Disposition),
        st.sampled_from(Cost),
        st.integers(0, 2**45),
        usages,
        st.booleans(),
    ),
    st.builds(Returned, numbers, texts, st.sampled_from([Cost.NONE, Cost.DELIVERY])),
    st.builds(CancelRecorded, numbers, texts, st.booleans()),
    st.builds(CheckpointStored, numbers, st.integers(0, 2**40), st.binary(max_size=20)),
    st.builds(ChunkStored, numbers, st.integers(0, 2**40), st.binary(max_size=20)),
    st.builds(NamespaceCreated),
)
specs = st.builds(
    spec_of,
    names,
    names,
    priority=st.integers(0, 4),
    max_retries=st.none() | st.integers(0, 100),
    max_crashes=st.none() | st.integers(0, 100),
    run_timeout_s=st.none() | st.floats(0.001, 10**6),
    progress_timeout_s=st.none() | st.floats(0.001, 10**6),
    payload=st.binary(max_size=20),
    defaults=st.just(DEFAULTS),
)


@st.composite
def commits(draw):
    """Commits as an engine makes them: in each namespace the numbers of submitted tasks are consecutive."""
    number, events = {"one": draw(numbers), "two": draw(numbers)}, []
    for _ in range(draw(st.integers(0, 12))):
        namespace = draw(st.sampled_from(["one", "two"]))
        if draw(st.booleans()):
            events.append((namespace, Submitted(number[namespace], draw(specs))))
            number[namespace] += 1
        else:
            events.append((namespace, draw(task_events)))
    return Commit(draw(numbers), EPOCH, draw(st.integers(0, 2**45)), events)


def comparable(commit):
    def facts(event):
        if isinstance(event, Submitted):
            return event.number, {name: getattr(event.spec, name) for name in Spec.__slots__}
        return event

    return commit.sequence, commit.epoch, commit.date_ms, [(namespace, facts(event)) for namespace, event in commit.events]


@given(commits())
def test_what_is_decoded_is_what_was_encoded(commit):
    assert comparable(decode(encode(commit, DEFAULTS))) == comparable(commit)


def test_the_outcome_and_usage_of_a_completed_task_are_in_its_record_alone():
    commit = Commit(1, EPOCH, 0, [("default", Completed(5, b"large", (Usage("m", 1, 1, 1),)))])
    assert decode(encode(commit, DEFAULTS)).events == [("default", Completed(5, b"", ()))]


def test_the_defaults_of_the_day_are_kept_with_the_task():
    commit = Commit(1, EPOCH, 0, [("default", Submitted(1, spec_of("task", defaults=DEFAULTS)))])
    ((_, submitted),) = decode(encode(commit, DEFAULTS)).events
    assert submitted.spec.retry == DEFAULTS


def test_runs_of_one_kind_become_columns():
    events = [("default", Assigned(number, f"agent{number % 3}", 1, (EPOCH << 20) + number)) for number in range(1, 1001)]
    blob = encode(Commit(1, EPOCH, 0, events), DEFAULTS)
    assert len(event_pb2.Commit.FromString(blob).records) == 1
    assert len(blob) < 8 * len(events)


def test_a_newer_format_is_refused_in_a_sentence():
    blob = event_pb2.Commit(format_version=FORMAT_VERSION + 1).SerializeToString()
    with pytest.raises(JournalTooNew, match="start the newer release"):
        decode(blob)


def test_an_event_of_a_newer_release_is_refused_and_not_skipped():
    blob = event_pb2.Commit(format_version=FORMAT_VERSION, records=[event_pb2.Record(namespace="default")]).SerializeToString()
    with pytest.raises(JournalTooNew):
        decode(blob)
