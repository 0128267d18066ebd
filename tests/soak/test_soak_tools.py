"""What decides whether a soak holds: it must notice what it is there for."""

import random
from collections import Counter

import pytest
from muster.v1 import common_pb2, event_pb2

from tests.soak.audit import Audit, Story
from tests.soak.census import count
from tests.soak.disturbances import DISTURBANCES, plan
from tests.soak.flatness import MIN_GROWTH_BYTES, WARM_UP_SHARE, trend
from tests.soak.report import checks
from tests.soak.run import Plan, Seen, leaked_bytes
from tests.soak.samples import ProcessSample, StoreSample
from tests.soak.work import KINDS

MB = 1_000_000


def series(rng, *, per_task=0.0, jump=0.0):
    """Ten minutes of a process that warms up to 80 MB, a sample every two seconds."""
    for second in range(0, 600, 2):
        warm_up = 20 * MB * min(1.0, second / 100)
        yield float(second), 60 * MB + warm_up + per_task * 2000 * second + rng.uniform(-MB, MB) + (jump if second > 300 else 0.0)


def test_noise_a_warm_up_and_a_spike_are_flat(rng):
    samples = list(series(rng))
    samples[250] = (samples[250][0], 500.0 * MB)
    assert trend(samples).is_flat


@pytest.mark.parametrize("per_task", [6.0, 50.0])
def test_some_bytes_a_task_are_a_leak(rng, per_task):
    assert not trend(list(series(rng, per_task=per_task))).is_flat


def test_too_short_a_life_says_nothing(rng):
    assert trend([]) is None
    assert trend(list(series(rng))[:10]) is None


class Held:
    def __init__(self, things):
        self.things = things


def test_a_census_counts_containers_wherever_they_are():
    root = Held({"one": [1, 2, 3], "two": Held([4])})
    package = Held.__module__.partition(".")[0]
    counts = count(root, package=package)
    assert counts["Held"] == 2
    assert counts["Held.things"] == 3  # a dict of two, and a list of one
    assert counts["Held.things[]"] == 3


def good(rng):
    """What a run that holds has shown."""
    seen = Seen(Plan(seconds=600))
    seen.submitted_in_time, seen.live_after, seen.retained_after = 1_200_000, 0, 0
    seen.processes["agent"] = [ProcessSample(at_s, round(value), 10, 20) for at_s, value in series(rng)]
    seen.at_rest["agent"] = (seen.processes["agent"][0], seen.processes["agent"][-1])
    seen.store = [StoreSample(float(at_s), 80 * MB, 90_100, 90_050, 500, 4 * MB, 100 * MB) for at_s in range(0, 600, 2)]
    seen.counts["agent"] = ({"Runner._running": 1}, {"Runner._running": 2})
    return seen


def failing(seen):
    return {check.name for check in checks(seen) if not check.holds}


def test_a_run_that_holds_holds(rng):
    assert failing(good(rng)) == set()


def test_each_check_fails_where_it_should(rng):
    seen = good(rng)
    seen.submitted_in_time, seen.live_after, seen.retained_after = 1_000_000, 1, 1
    seen.findings.fault("something")
    seen.processes["agent"] = [ProcessSample(at_s, round(value), 10, 20) for at_s, value in series(rng, per_task=10)]
    seen.at_rest["agent"] = (ProcessSample(0.0, MB, 10, 20), ProcessSample(1.0, MB, 100, 100))
    seen.store = [StoreSample(float(at_s), 80 * MB + 50_000 * at_s, 200_000, 150_000, 500, 40 * MB, 900 * MB) for at_s in range(0, 600, 2)]
    seen.keys_after = Counter({"task": 1})
    seen.counts["agent"] = ({"Runner._running": 1}, {"Runner._running": 1000})
    assert failing(seen) == {
        "audit",
        "descriptors of agent",
        "disk",
        "journal",
        "keys",
        "keys left",
        "memory of agent",
        "nothing is retained for ever",
        "nothing lives on",
        "objects of agent",
        "rate",
        "retention",
        "retention in quiet",
        "store's data",
        "threads of agent",
    }


@pytest.mark.parametrize(
    "story,record,wrong",
    [
        (Story("plain", True, "COMPLETED", [5]), {"state": "COMPLETED", "fence": 5, "result_fence": 5}, ""),
        (Story("plain", True, "COMPLETED", [5]), {"state": "FAILED", "fence": 5}, "ended FAILED"),
        (Story("plain", True, "COMPLETED", [5, 5]), {"state": "COMPLETED", "fence": 5, "result_fence": 5}, "twice under one fence"),
        (Story("plain", True, "COMPLETED", [5]), {"state": "COMPLETED", "fence": 6, "result_fence": 6}, "was completed under fence 6"),
        (Story("plain", True, "COMPLETED", [4, 5]), {"state": "COMPLETED", "fence": 5, "result_fence": 5}, "has no end of [4]"),
    ],
    ids=["good", "another end", "twice", "never ran", "no reason"],
)
def test_the_audit_knows_what_is_wrong(tmp_path, story, record, wrong):
    (tmp_path / "executions").touch()
    audit = Audit(ledgers=[], executions=tmp_path / "executions")
    state = common_pb2.TaskState.Value(f"TASK_STATE_{record.pop('state')}")
    audit._compare("task", story, event_pb2.TaskRecord(state=state, **record))
    audit.close()
    assert wrong in " ".join(audit.findings.faults)
    assert bool(audit.findings.faults) == bool(wrong)


def test_who_was_acknowledged_and_has_no_end_is_lost(tmp_path):
    (tmp_path / "executions").touch()
    (tmp_path / "ledger").write_text("T task plain\n")
    audit = Audit(ledgers=[tmp_path / "ledger"], executions=tmp_path / "executions")
    for line in audit._ledgers[0].lines():
        audit._note(*line.split(" "))
    assert "was acknowledged, and has no end" in audit.finish().faults[0]
    audit.close()


def test_whose_client_gave_up_is_not_lost(tmp_path):
    (tmp_path / "executions").touch()
    audit = Audit(ledgers=[], executions=tmp_path / "executions")
    audit._note("T", "task", "plain")
    audit._waiting.append(("task", event_pb2.TaskRecord(state=common_pb2.TASK_STATE_COMPLETED)))
    audit._waiting.append(("other", event_pb2.TaskRecord(state=common_pb2.TASK_STATE_COMPLETED)))
    assert audit.finish().faults == [
        "task task of kind plain has an end, and its client was never told its end",
        "task other has an end, and nobody submitted it",
    ]
    audit.close()


def test_what_leaks_on_purpose_shows_in_a_run_of_any_length():
    for run in (Plan(), Plan(seconds=120, rate=500), Plan(seconds=60, rate=300, clients=4)):
        kept = leaked_bytes(run) * run.rate / run.clients * run.seconds * (1 - WARM_UP_SHARE)
        assert kept > 4 * MIN_GROWTH_BYTES
    assert leaked_bytes(Plan()) == 64


def test_every_disturbance_happens_and_the_coordinator_is_left_alone_at_the_end(rng):
    planned = plan(600, rng)
    assert {one.what for _, one in planned} == {one.what for one in DISTURBANCES}
    assert max(at_s for at_s, one in planned if "coordinator" in one.what.__name__) < 600 * 0.35


def test_every_kind_can_be_submitted():
    assert sum(kind.share for kind in KINDS.values()) == pytest.approx(1000, abs=1)
    for kind in KINDS.values():
        kind.options(random.Random(1))
        assert kind.handler is not None or kind.then is not None, "else nobody would end it"
