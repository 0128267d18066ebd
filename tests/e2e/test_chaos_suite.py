"""The chaos suite in short, and coordinators that lack a guard: the checker must notice. `make chaos` goes on for longer."""

from pathlib import Path

import pytest

from tests.chaos.report import text
from tests.chaos.run import Outcome, chaos
from tests.chaos.schedule import Fault, Setting
from tests.chaos.violations import Kind
from tests.support.processes import Children

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

ALONE = Setting(coordinators=1, agents=6, replicas=0)
SECONDS = 25.0


async def test_nothing_is_lost_whatever_fails(children: Children, tmp_path: Path, seed: int) -> None:
    outcome = await chaos(seed=seed % 10**6, seconds=SECONDS, setting=ALONE, folder=tmp_path, children=children, say=print)
    print(text(outcome))
    assert not outcome.violations
    assert not outcome.refused
    assert not outcome.tracebacks
    assert len(outcome.faults) >= 3
    assert len(outcome.seen.told) > 200


async def without(guard: str, planned: list[Fault], *, folder: Path, children: Children) -> Outcome:
    outcome = await chaos(seed=1, seconds=0, setting=ALONE, folder=folder, children=children, say=print, planned=planned, without=guard)
    print(text(outcome))
    return outcome


async def test_the_checker_notices_that_fences_are_not_compared(children: Children, tmp_path: Path) -> None:
    """Agents are paused over their leases while they run what takes long; others are given it; then they come back with a result."""
    stopped = [Fault(at_s, "stop agent", (f"agent-{number}",), 3.5) for at_s in (0.5, 5.0) for number in (0, 2, 4)]
    outcome = await without("fences", stopped, folder=tmp_path, children=children)
    assert Kind.STALE_REPORT in {violation.kind for violation in outcome.violations}


async def test_the_checker_notices_that_capacity_is_not_looked_at(children: Children, tmp_path: Path) -> None:
    outcome = await without("capacity", [], folder=tmp_path, children=children)
    assert Kind.CAPACITY in {violation.kind for violation in outcome.violations}
