"""`make chaos SECONDS=180 SEED=1 JSON=chaos.json`: everything is killed, stopped and cut off, and nothing is lost. Else it exits 1."""

import argparse
import asyncio
import json
import logging
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.report import record, text
from tests.chaos.run import chaos
from tests.chaos.schedule import Setting
from tests.support.processes import Children


def main() -> None:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="how long faults are injected (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="repeats a schedule of faults (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    parser.add_argument("--coordinators", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--replicas", type=int, default=1, help="of the store's primary; 0 goes without sentinels (default %(default)s)")
    parser.add_argument("--keep", type=Path, help="keep all files in this folder, which must not be there yet")
    options = parser.parse_args()
    logging.basicConfig(level="ERROR")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no process outlives this one
    setting = Setting(coordinators=options.coordinators, replicas=options.replicas)

    def say(what: str) -> None:
        print(what, flush=True)

    with tempfile.TemporaryDirectory(prefix="muster-chaos-") as temporary:
        folder = options.keep or Path(temporary)
        (folder / "logs").mkdir(parents=True)
        with Children(folder=folder / "logs") as children:
            outcome = asyncio.run(
                chaos(seed=options.seed, seconds=options.seconds, setting=setting, folder=folder, children=children, say=say)
            )
    print(text(outcome))
    if options.json:
        options.json.write_text(json.dumps(record(outcome), indent=2) + "\n")
    sys.exit(1 if outcome.violations or outcome.refused else 0)


if __name__ == "__main__":
    main()
