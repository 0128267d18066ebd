"""`make soak`: a day in ten minutes. Exits 0 when everything holds, and 1 when something doesn't."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

from tests.soak.report import checks, record, text
from tests.soak.run import Plan, soak
from tests.support.processes import Children


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    for each in fields(Plan):
        kind = str if each.name == "leak" else type(each.default)
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, default=each.default, help="(default %(default)s)")  # type: ignore[arg-type]
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    parser.add_argument("--keep", type=Path, help="keep logs and data in this new folder")
    options = vars(parser.parse_args())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing of it outlives it, however it is ended
    file, kept = options.pop("json"), options.pop("keep")
    with tempfile.TemporaryDirectory(prefix="muster-soak-", ignore_cleanup_errors=True) as scratch:
        folder = kept or Path(scratch)
        folder.mkdir(exist_ok=True)
        logs = folder / "logs"
        logs.mkdir()
        with Children(folder=logs) as children:
            seen = asyncio.run(soak(Plan(**options), folder=folder, children=children, say=lambda line: print(line, flush=True)))
    found = checks(seen)
    print(text(seen, found))
    if file is not None:
        file.write_text(json.dumps(record(seen, found)))
    sys.exit(not all(check.holds for check in found))


if __name__ == "__main__":
    main()
