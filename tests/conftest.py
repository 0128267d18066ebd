"""Fixtures and settings for every test."""

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from tests.support.processes import Children

# A machine shared with others is slow at times; a failing example is printed so that it can be repeated anywhere.
settings.register_profile("muster", deadline=None, print_blob=True)
settings.register_profile("mutations", settings.get_profile("muster"), phases=[Phase.explicit, Phase.generate], derandomize=True)
settings.load_profile("muster")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the chaos tests go on (tests/e2e/test_chaos.py, tests/e2e/test_state_linearizable.py)."""
    group = parser.getgroup("chaos")
    group.addoption("--chaos-tasks", type=int, default=20_000, help="tasks to run while killing (default %(default)s)")
    group.addoption("--chaos-kills", type=int, default=5, help="kills each of coordinator, agent and store (default %(default)s)")
    group.addoption("--state-rounds", type=int, default=1, help="rounds of three kills below shared state (default %(default)s)")
    parser.addoption("--state-keys", type=int, default=100_000, help="keys of shared state to list (default %(default)s)")


def pytest_configure() -> None:
    """A run that is ended from outside, as by `timeout`, ends like one by Ctrl-C: with it end the processes of its tests.

    Left behind, they would take the machine's time from whatever is run next.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Says how to repeat a failed run, in the same order with the same random numbers."""
    if exitstatus == pytest.ExitCode.TESTS_FAILED:
        seed = config.getoption("randomly_seed", "unknown")
        terminalreporter.write_line(f'Repeat with: make test ARGS="--randomly-seed={seed}"')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a redis-server where there is none."""
    if shutil.which("redis-server") is None:
        for item in items:
            if item.get_closest_marker("redis"):
                item.add_marker(pytest.mark.skip(reason="no redis-server on PATH"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This run's seed, printed at its start and settable with --randomly-seed."""
    value: int = request.config.getoption("randomly_seed", "unknown")
    print(f"seed {value}")  # shown with a failure
    return value


@pytest.fixture
def rng(seed: int) -> random.Random:
    """Random numbers that the run's seed repeats."""
    return random.Random(seed)


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    """Starts processes; their logs are in the test's tmp_path, and they end with the test."""
    folder = tmp_path / "logs"
    folder.mkdir()
    with Children(folder=folder) as started:
        yield started
