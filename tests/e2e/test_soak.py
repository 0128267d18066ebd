"""A soak in short: the same processes, work, disturbances and audit as `make soak`, without the statistics that need its ten minutes."""

import pytest

from tests.soak.report import checks, text
from tests.soak.run import Plan, soak

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

# Memory of a half-minute is all warm-up, and a machine that others use may not keep a rate.
_NEEDS_TIME = ("memory of ", "store's data", "rate")


async def test_a_soak_in_short(children, tmp_path, seed: int) -> None:
    planned = Plan(seconds=25, rate=300, seed=seed % 10**6, retention_s=15, retention_count=3000, snapshot_after=300_000, disturbed=0.2)
    seen = await soak(planned, folder=tmp_path, children=children, say=print)
    found = checks(seen)
    print(text(seen, found))
    failed = [check for check in found if not check.holds and not check.name.startswith(_NEEDS_TIME)]
    assert not failed
    assert seen.findings.taken > 1000
