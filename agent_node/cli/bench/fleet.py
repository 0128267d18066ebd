"""The processes of a run: a coordinator with its store, and the agents. Each is ended by its id, however the run ends."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from agent_node.cli.bench.measures import children_of, process_table
from agent_node.cli.exits import CommandFailure, ExitCode

TASK_TYPE = "bench.noop"
IDLE_TYPE = "bench.idle"
MAX_AGENT_PROCESSES = 4
_POLL_S = 0.01
_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 10.0
_KILL_TIMEOUT_S = 5.0
STORE_NAME = re.compile("valkey|redis")
_SERVING = re.compile(r"serving on (\S+)\s")
_LAST_LINES = 3  # of a process, to explain why it ended


@dataclass(frozen=True, slots=True)
class AgentProcessPlan:
    """The agents that one process runs."""

    agent_names: tuple[str, ...]
    task_type: str
    capacity: int
    address: str
    namespace: str

    def to_argument(self) -> str:
        """The plan as a command-line argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> "AgentProcessPlan":
        """The plan that `to_argument` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "agent_names": tuple(fields["agent_names"])})


def plan_agents(*, agents: int, idle: int, capacity: int, address: str, namespace: str, prefix: str) -> list[AgentProcessPlan]:
    """Spreads `agents` working agents over at most `MAX_AGENT_PROCESSES` processes; the idle ones share one more."""

    def plan(names: Sequence[str], task_type: str) -> AgentProcessPlan:
        return AgentProcessPlan(tuple(names), task_type, capacity, address, namespace)

    working = [f"{prefix}-{number}" for number in range(agents)]
    processes = min(agents, MAX_AGENT_PROCESSES)
    plans = [plan(working[place::processes], TASK_TYPE) for place in range(processes)]
    if idle > 0:
        plans.append(plan([f"{prefix}-idle-{number}" for number in range(idle)], IDLE_TYPE))
    return plans


@dataclass(frozen=True, slots=True)
class CoordinatorProcess:
    """A coordinator that serves."""

    address: str
    pid: int
    store_pids: tuple[int, ...]  # the servers that it started
    start_s: float  # from the start of its process until it said that it serves


def python_command(module: str, arguments: Sequence[str], *, profile: Path | None) -> list[str]:
    """What runs a module in a process of its own, under the profiler if `profile` names a file for its statistics."""
    if profile is None:
        return [sys.executable, "-m", module, *arguments]
    return [sys.executable, "-m", "agent_node.cli.bench.profiled", str(profile), module, *arguments]


@asynccontextmanager
async def running_coordinator(scratch: Path, *, profile: Path | None = None) -> AsyncIterator[CoordinatorProcess]:
    """A coordinator of our own with its embedded store, both ended with the context. `scratch` is a directory for their files.

    Raises CommandFailure when it doesn't serve within a minute.
    """
    store_pids: tuple[int, ...] = ()
    try:
        async with Children() as children:
            coordinator = await start_coordinator(children, scratch, log=scratch / "coordinator.log", profile=profile)
            store_pids = coordinator.store_pids
            yield coordinator
    finally:
        end_orphans(store_pids)


async def start_coordinator(
    children: "Children", scratch: Path, *, log: Path, options: Sequence[str] = (), profile: Path | None = None
) -> CoordinatorProcess:
    """Starts a coordinator among `children` on the data in `scratch`, and returns when it serves.

    Raises CommandFailure when it doesn't within a minute.
    """
    arguments = ["--data-dir", str(scratch / "data"), "--listen", "127.0.0.1:0", *options]
    begin = time.perf_counter()
    process = await children.start(
        python_command("coordinator", arguments, profile=profile / "coordinator.pstats" if profile else None), log=log
    )
    address = await _wait_for_address(process, log)
    start_s = time.perf_counter() - begin
    return CoordinatorProcess(address, process.pid, tuple(children_of(process.pid, process_table())), start_s)


def end_orphans(pids: Sequence[int]) -> None:
    """Ends the servers that a coordinator has left behind because it had to be killed."""
    table = process_table()
    for pid in pids:
        if pid in table and STORE_NAME.search(table[pid].name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


class AgentProcesses:
    """The processes that run agents."""

    def __init__(self, children: "Children", plans: Sequence[AgentProcessPlan], logs: Sequence[Path]) -> None:
        self._children = children
        self._plans = plans
        self._logs = logs
        self.agent_names = frozenset(name for plan in plans for name in plan.agent_names)

    @property
    def working_pids(self) -> list[int]:
        """The ids of those whose agents get work."""
        return self._pids_of(TASK_TYPE)

    @property
    def idle_pids(self) -> list[int]:
        """The ids of those whose agents are only connected."""
        return self._pids_of(IDLE_TYPE)

    def _pids_of(self, task_type: str) -> list[int]:
        processes = zip(self._children.processes, self._plans, strict=True)
        return [process.pid for process, plan in processes if plan.task_type == task_type]

    def raise_if_ended(self) -> None:
        """Raises CommandFailure when one of them has ended by itself, with its last words."""
        for process, log in zip(self._children.processes, self._logs, strict=True):
            if process.returncode is not None:
                raise CommandFailure(f"an agent process ended with status {process.returncode}: {last_words(log)}", ExitCode.UNAVAILABLE)


@asynccontextmanager
async def running_agents(plans: Sequence[AgentProcessPlan], scratch: Path, *, profile: Path | None = None) -> AsyncIterator[AgentProcesses]:
    """A process for each plan, ended with the context. `profile` is a directory for their statistics."""
    logs = [scratch / f"agents-{number}.log" for number in range(len(plans))]
    async with Children() as children:
        for plan, log in zip(plans, logs, strict=True):
            file = profile / f"{log.stem}.pstats" if profile else None
            command = python_command("agent_node.cli.bench.agents", [plan.to_argument()], profile=file)
            await children.start(command, log=log)
        yield AgentProcesses(children, plans, logs)


class Children:
    """Child processes that are ended together, when the context ends.

    Each has a standard input that stays open and empty: its end tells a child that we are gone, whatever took us.
    """

    def __init__(self) -> None:
        self.processes: list[asyncio.subprocess.Process] = []

    async def start(self, command: Sequence[str], *, log: Path) -> asyncio.subprocess.Process:
        """Starts one, with what it prints in the file `log`: a pipe would stop it when full, and outlive it in its own children."""
        with log.open("wb") as sink:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                env=child_environment(os.environ),
                start_new_session=True,  # Ctrl-C is for us: we end our children ourselves
            )
        self.processes.append(process)
        return process

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await asyncio.shield(asyncio.gather(*(_end(process) for process in self.processes)))


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Ours without our settings: a coordinator that is measured must not share a store or an address with the one in use."""
    return {name: value for name, value in environment.items() if not name.startswith("MUSTER_")} | {"PYTHONUNBUFFERED": "1"}


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends a process: closes its input, asks with SIGTERM, and kills it when it doesn't listen."""
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _END_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await asyncio.wait_for(process.wait(), _KILL_TIMEOUT_S)


async def _wait_for_address(process: asyncio.subprocess.Process, log: Path) -> str:
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while True:
                ended = process.returncode is not None  # asked first: what it printed before its end counts
                if found := _SERVING.search(log.read_text(errors="replace")):
                    return found[1]
                if ended:
                    raise CommandFailure(f"the coordinator did not start: {last_words(log)}", ExitCode.UNAVAILABLE)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise CommandFailure(f"the coordinator did not serve within {_START_TIMEOUT_S:.0f} s.", ExitCode.UNAVAILABLE) from None


def last_words(log: Path) -> str:
    """The last lines that a process wrote, as one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-_LAST_LINES:]) or "it said nothing."


def agent_prefix() -> str:
    """A prefix for agents' names that no other run on this machine has now."""
    return f"bench-{os.getpid()}"
