"""What more coordinators over one store would move, and what is used up first: simulated from costs that are measured in the same run.

    python -m benchmarks.scaling

Measured are what a coordinator's process spends on a task, from `muster bench dispatch`, and what the store's thread spends on commits
(`benchmarks/store_costs.py`). `benchmarks/scaling_model.py` says what is made of them. Agents and clients are taken to have cores of
their own. The measured rate stands beside the model's for one coordinator: on a machine where all share two cores it is lower.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.scaling_model import simulate
from benchmarks.store_costs import measure_store

COORDINATORS = (1, 2, 4, 8, 16)


def measured_dispatch(tasks: int) -> tuple[float, float]:
    """Tasks a second of one whole deployment, and seconds of its coordinator's CPU for a task."""
    command = [str(Path(sys.executable).with_name("muster")), "bench", "dispatch", "--json", "--tasks", str(tasks)]
    record = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    return record["tasks_per_s"], record["cpu_s_per_1000"]["coordinator"] / 1000


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description="What more coordinators over one store would move.")
    parser.add_argument("--tasks", type=int, default=50_000, metavar="N", help="of the measured run (default 50,000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="muster-scaling-") as scratch:
        store = asyncio.run(measure_store(Path(scratch)))
    rate, coordinator_task_s = measured_dispatch(options.tasks)
    task_us, commit_us, flush_us = (1e6 * cost_s for cost_s in (store.task_s, store.commit_s, store.flush_s))
    print(f"a coordinator's CPU      {1e6 * coordinator_task_s:7.1f} us a task")
    print(f"the store's thread       {task_us:7.1f} us a task, {commit_us:.0f} us a commit, {flush_us:.0f} us a flush")
    print(f"measured with one        {rate:7,.0f} tasks/s, on this machine's cores with agents, client and store\n")
    print("coordinators    tasks/s   of one    coordinators busy   first limit")
    one = simulate(store, coordinator_task_s=coordinator_task_s, coordinators=1).tasks_per_s
    for coordinators in COORDINATORS:
        scaled = simulate(store, coordinator_task_s=coordinator_task_s, coordinators=coordinators)
        print(
            f"{coordinators:12} {scaled.tasks_per_s:10,.0f} {scaled.tasks_per_s / one:7.1f}x "
            f"{scaled.coordinator_busy:18.0%}    {scaled.first_limit}"
        )


if __name__ == "__main__":
    main()
