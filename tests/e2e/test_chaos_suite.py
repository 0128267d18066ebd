"""The chaos suite in short, and coordinators that lack guards: the checker must notice. `make chaos` goes on for longer."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos.report import text
from tests.chaos.run import USUAL, Work, chaos
from tests.chaos.schedule import Fault, Setting
from tests.chaos.violations import Kind
from tests.support.processes import Children

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

SECONDS = 20.0


async def test_nothing_is_lost_whatever_fails(children: Children, tmp_path: Path, seed: int) -> None:
    outcome = await chaos(seed=seed % 10**6, seconds=SECONDS, setting=Setting(), folder=tmp_path, children=children, say=print)
    print(text(outcome))
    assert not outcome.violations
    assert not outcome.refused, "clients with the SDK see delay, not errors"
    assert not outcome.tracebacks
    assert len(outcome.faults) >= 3
    assert len(outcome.seen.told) > 200


async def found_without(
    guards: Sequence[str], planned: list[Fault], *, setting: Setting, folder: Path, children: Children, work: Work = USUAL
) -> set[Kind]:
    outcome = await chaos(
        seed=1, seconds=0, setting=setting, folder=folder, children=children, say=print, planned=planned, work=work, without=guards
    )
    print(text(outcome))
    return {violation.kind for violation in outcome.violations}


async def test_the_checker_notices_that_neither_fences_nor_capacity_are_looked_at(children: Children, tmp_path: Path) -> None:
    """Agents are paused over their leases while they run what takes long, and others are given it. Then they report theirs, whatever they
    are told.
    """
    stopped = [Fault(1.0, "stop agent", (f"agent-{number}",), 3.5) for number in (0, 2, 4)]
    found = await found_without(
        ["fences", "capacity"],
        stopped,
        setting=Setting(coordinators=1, replicas=0),
        folder=tmp_path,
        children=children,
        work=Work(slow=0.5, agent_options=["--stubborn"]),
    )
    assert {Kind.STALE_REPORT, Kind.CAPACITY} <= found


async def test_the_checker_notices_that_replicas_are_not_waited_for(children: Children, tmp_path: Path) -> None:
    """The replica is cut off, and becomes the primary when the primary is killed: what was acknowledged meanwhile is gone."""
    faults = [Fault(1.0, "partition", ("replica", "primary"), 7.0), Fault(3.0, "kill primary", ("primary",), 5.0)]
    found = await found_without(["waits"], faults, setting=Setting(coordinators=1), folder=tmp_path, children=children)
    assert Kind.LOST in found
