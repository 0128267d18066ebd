"""The schedule of faults: the same for the same seed, and as much as a run needs."""

from collections import Counter

import pytest

from tests.chaos.schedule import KINDS, REST_S, Setting, kinds_of, schedule


def test_a_seed_repeats_it() -> None:
    assert schedule(7, seconds=180, setting=Setting()) == schedule(7, seconds=180, setting=Setting())
    assert schedule(7, seconds=180, setting=Setting()) != schedule(8, seconds=180, setting=Setting())


@pytest.mark.parametrize("seed", range(20))
def test_three_minutes_have_thirty_faults_of_every_kind(seed: int) -> None:
    faults = schedule(seed, seconds=180, setting=Setting())
    assert len(faults) >= 34
    assert Counter(fault.kind for fault in faults).keys() == KINDS.keys()
    assert all(fault.at_s + fault.lasts_s <= 180 - REST_S for fault in faults)
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    everybody = {name for fault in faults for name in fault.who}
    assert {"primary", "replica"} < everybody
    assert {name for name in everybody if name.startswith("coordinator")} == {f"coordinator-{number}" for number in range(3)}


def test_a_longer_run_begins_as_a_shorter_one() -> None:
    short, long = (schedule(3, seconds=seconds, setting=Setting()) for seconds in (60, 180))
    assert long[: len(short)] == short


def test_without_a_replica_nothing_needs_one() -> None:
    setting = Setting(coordinators=1, replicas=0)
    faults = schedule(1, seconds=300, setting=setting)
    assert {fault.kind for fault in faults} == set(kinds_of(setting))
    assert not {name for fault in faults for name in fault.who if name.startswith(("replica", "sentinel"))}
