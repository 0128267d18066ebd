"""Takes the guards out one by one, and shows which tests notice: `python -m tests.mutations [NAME...]`.

Works on a copy of the tree. A guard whose removal no test notices is listed as SURVIVED, and the exit code is 1. It takes a quarter of
an hour for all of them, so it isn't part of the tests.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.mutation_row import Mutation
from tests.mutation_rows_webhooks import WEBHOOK_MUTATIONS
from tests.mutation_table import MUTATIONS

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("coordinator", "agent_node", "protos", "tests", "pyproject.toml")
SLOW = [f"tests/core/test_{name}.py" for name in ("pause_steps", "steps", "fairness")]  # they take nine tenths of the unit tests' time
SUITES = {
    "unit": ["tests/core", "tests/engine", "--ignore", "tests/core/test_machine.py"],
    "webhooks": [
        "tests/core/test_webhooks.py",
        "tests/engine/test_webhooks.py",
        "tests/engine/test_webhooks_of_the_gone.py",
        "tests/webhooks",
        "--ignore",
        "tests/webhooks/test_other_languages.py",
    ],
    "cluster": ["tests/cluster"],
    "state": ["tests/state_engine"],
    "state service": [
        "tests/state",
        "tests/integration/rpc/test_state_service.py",
        "tests/integration/rpc/test_state_streams.py",
        "tests/integration/rpc/test_state_and_shard.py",
    ],
    "forwarding": ["tests/forwarding"],
    "machine": ["tests/core/test_machine.py"],
    "simulation": [f"tests/sim/test_simulation.py::test_the_guarantees_hold_whatever_happens[{batch}]" for batch in range(3)],
}
TEST_LIMIT_S = 100  # the slowest test takes ten seconds
SUITE_LIMIT_S = 900  # whoever is over it has noticed: so it must be far above what a suite takes


@dataclass
class Verdict:
    """What a suite said of a mutation: the test that failed and why, or nothing."""

    noticed: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only mutations whose name contains one of these")
    parser.add_argument("--suite", choices=SUITES, action="append", help="only these suites")
    arguments = parser.parse_args()
    suites = {name: tests for name, tests in SUITES.items() if not arguments.suite or name in arguments.suite}
    named = [each for each in MUTATIONS if not arguments.names or any(name in each.name for name in arguments.names)]
    chosen = [each for each in named if any(_concerns(suite, each) for suite in suites)]
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tree / name)
        print("| guard removed | " + " | ".join(suites) + " |\n" + "| --- " * (len(suites) + 1) + "|", flush=True)
        for mutation in chosen:
            verdicts = _try(mutation, tree, suites)
            survived += not any(verdict is not None and verdict.noticed for verdict in verdicts)
            cells = ["" if verdict is None else verdict.noticed or "survived" for verdict in verdicts]
            print(f"| {mutation.name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\n{len(chosen) - survived} of {len(chosen)} were noticed", flush=True)
    return 1 if survived else 0


STATE = ("coordinator/state/", "coordinator/rpc/state_", "coordinator/rpc/agent_presence", "coordinator/convert_state")


def _concerns(suite: str, mutation: Mutation) -> bool:
    """Whether a suite may tell anything of a guard: the core's knows nothing of shared state, and the other way round."""
    if suite == "webhooks":
        return mutation in WEBHOOK_MUTATIONS
    if suite in ("state", "state service"):
        return mutation.path.startswith(STATE) or "state goes" in mutation.name
    return not mutation.path.startswith(STATE)


def _try(mutation: Mutation, tree: Path, suites: dict[str, list[str]]) -> list[Verdict | None]:
    path = tree / mutation.path
    sound = path.read_text(encoding="utf-8")
    if sound.count(mutation.guard) != 1:
        raise SystemExit(
            f"{mutation.name}: {mutation.path} holds its guard {sound.count(mutation.guard)} times; bring the table up to date"
        )
    path.write_text(sound.replace(mutation.guard, mutation.instead), encoding="utf-8")
    try:
        return [_run(tree, tests, mutation.path) if _concerns(name, mutation) else None for name, tests in suites.items()]
    finally:
        path.write_text(sound, encoding="utf-8")


def _run(tree: Path, suite: list[str], path: str) -> Verdict:
    """Runs a suite. Of the core's, the tests of the mutated file go first, and the slow ones last: -x does the rest."""
    if "tests/core" not in suite:
        return _run_tests(tree, suite)
    files = [str(file.relative_to(tree)) for folder in suite[:2] for file in sorted((tree / folder).glob("test_*.py"))]
    quick = [file for file in files if file not in (*SLOW, suite[-1])]
    quick.sort(key=lambda file: f"test_{Path(path).stem}" not in file)
    return _run_tests(tree, [*quick, *SLOW])


def _run_tests(tree: Path, tests: list[str]) -> Verdict:
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    command += ["--timeout", str(TEST_LIMIT_S), "--hypothesis-profile=mutations", *tests]
    try:
        run = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=SUITE_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return Verdict("ran for ever")
    if run.returncode == 0:
        return Verdict("")
    test = re.search(r"^(?:FAILED|ERROR) \S*?(\w+\.py(?:::\w+)?)", run.stdout, re.MULTILINE)
    reasons = re.findall(r"^E   +(?:\w+\.)*(\w*(?:Error|Exception|Broken|Event|Happen|Spins|Corrupt)\b.*)$", run.stdout, re.MULTILINE)
    reason = reasons[0].replace("|", "/")[:90] if reasons else "failed"
    return Verdict(f"{test.group(1) if test else '?'}: {reason}")


if __name__ == "__main__":
    raise SystemExit(main())
