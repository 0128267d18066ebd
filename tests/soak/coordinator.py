"""The coordinator of a soak: the real one, whose day is as short as the run, and which counts what it holds.

Options that begin with --soak- are its own; the others are the coordinator's.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

from coordinator import __main__ as command
from coordinator import serving, wiring
from coordinator.ports import Retention
from coordinator.settings import CoordinatorSettings
from tests.soak.census import report_in_loop
from tests.soak.leak import leak_a_task


@contextlib.asynccontextmanager
async def counted(settings: CoordinatorSettings) -> AsyncIterator[wiring.Coordinator]:
    async with wiring.coordinator(settings) as running:
        census = asyncio.create_task(report_in_loop("coordinator", running, package="coordinator"), name="census")
        try:
            yield running
        finally:
            census.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--soak-retention-s", type=float, required=True)
    parser.add_argument("--soak-retention-count", type=int, required=True)
    own, others = parser.parse_known_args()
    options = command._parser().parse_args(others)
    retention = Retention(
        max_age_ms=round(1000 * own.soak_retention_s),
        max_count=own.soak_retention_count,
        max_bytes=2**40,
        min_age_ms=round(1000 * own.soak_retention_s * 2 / 3),
    )
    settings = replace(command._settings(options), retention=retention, sweep_s=2.0)
    serving.coordinator = counted  # type: ignore[assignment]  # the same, and a task beside it
    leak_a_task("coordinator")
    sys.exit(serving.run(settings, log_level=options.log_level))


if __name__ == "__main__":
    main()
