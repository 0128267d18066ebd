"""A coordinator with its embedded store and its agents, each a process of its own that a test may kill, stop and start again."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from agent_node.client import Client
from coordinator.journal.server_process import runs_in
from tests.support.eventually import eventually
from tests.support.ports import lasting_port
from tests.support.processes import Child, Children

START_S = 20.0


class Deployment:
    """One coordinator on one port and data directory, over as many processes as it takes.

    Args:
        children: starts the processes.
        folder: where the data directory and what the handlers record lie.
        options: the coordinator's, beside its data directory and address.
        module: what is run as the coordinator.
        agent: what is run as an agent, for `python -m agent_node`.
        store: the coordinator's options that say where its store is; without them, it has one of its own in its data directory.
    """

    def __init__(
        self,
        *,
        children: Children,
        folder: Path,
        options: Sequence[str] = (),
        module: str = "coordinator",
        agent: str = "tests.e2e.workers:agent",
        store: Sequence[str] = (),
    ) -> None:
        self.data_dir = folder / "data"
        self.executions = folder / "executions"
        self.gates = folder / "gates"
        self.gates.mkdir()
        self.executions.touch()
        self.port = lasting_port()
        self.coordinator: Child
        self._children = children
        self._options = options
        self._module = module
        self._agent = agent
        self._store = store or ("--data-dir", str(self.data_dir))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    # --- the coordinator ------------------------------------------------------------------------------------------------------

    async def start_coordinator(self, *options: str) -> Child:
        """Starts it, always on the same port, and returns when it serves."""
        self.coordinator = self.spawn_coordinator(*self._store, *self._options, *options, port=self.port)
        self.port = await serving_port(self.coordinator)
        return self.coordinator

    def spawn_coordinator(self, *options: str, port: int = 0) -> Child:
        """Starts a coordinator with these options alone."""
        command = [sys.executable, "-m", self._module, "--listen", f"127.0.0.1:{port}", *options]
        return self._children.start(command, name="coordinator")

    async def kill_coordinator(self) -> None:
        """kill -9, and then a new one in its place, which adopts the store that the old one left."""
        self.coordinator.kill()
        await self.start_coordinator()

    # --- the store ------------------------------------------------------------------------------------------------------------

    @property
    def store_pid(self) -> int:
        """The store server's process id, as its data directory records it; 0 when it says none."""
        try:
            return int(json.loads((self.data_dir / "server.json").read_text())["process_id"])
        except (OSError, ValueError):
            return 0

    @property
    def store_socket(self) -> Path:
        return Path(json.loads((self.data_dir / "server.json").read_text())["socket"])

    def signal_store(self, number: signal.Signals) -> bool:
        """Sends the store a signal. False when there is no store at the moment."""
        pid = self.store_pid
        if not runs_in(pid, directory=self.data_dir.resolve()):
            return False
        os.kill(pid, number)
        return True

    async def kill_store(self) -> None:
        """kill -9; the coordinator starts another one."""
        await eventually(lambda: self.signal_store(signal.SIGKILL), within_s=START_S, message="there is a store to kill")

    @asynccontextmanager
    async def stopped_store(self) -> AsyncIterator[None]:
        """Meanwhile the store does nothing, and no connection to it breaks."""
        assert self.signal_store(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal_store(signal.SIGCONT)

    def end_store(self) -> None:
        """Ends a store whose coordinator is gone."""
        self.signal_store(signal.SIGKILL)

    # --- agents ---------------------------------------------------------------------------------------------------------------

    def start_agent(self, name: str, *, capacity: int = 10, env: Mapping[str, str] | None = None, address: str | None = None) -> Child:
        """Starts an agent."""
        where = ["--name", name, "--address", address or self.address, "--capacity", str(capacity)]
        command = [sys.executable, "-m", "agent_node", self._agent, *where]
        paths = {"WORKER_EXECUTIONS": str(self.executions), "WORKER_GATES": str(self.gates)}
        return self._children.start(command, name=name, env={**paths, **(env or {})})

    async def agent_connected(self, client: Client, *names: str) -> None:
        """Returns when these agents are connected."""

        async def connected() -> bool:
            from muster.v1 import agent_pb2

            known = {agent.agent_name: agent.state for agent in await client.agents()}
            return all(known.get(name) == agent_pb2.AGENT_STATE_CONNECTED for name in names)

        await eventually(connected, within_s=START_S, message=f"agents {names} to be connected")

    def open_gate(self, name: str) -> None:
        """Lets the handlers go on that wait at this gate."""
        (self.gates / name).touch()

    def recorded(self, event: str | None = None, *, task_id: str | None = None) -> list[dict[str, object]]:
        """What handlers wrote down, in order: `event`, `task_id`, `attempt`, `fence`, `agent`, `pid` and more."""
        lines = [json.loads(line) for line in self.executions.read_text().splitlines()]
        return [line for line in lines if (event is None or line["event"] == event) and (task_id is None or line["task_id"] == task_id)]

    async def until_recorded(self, event: str, *, task_id: str | None = None, count: int = 1, within_s: float = 15.0) -> None:
        """Returns when handlers wrote `event` down at least `count` times."""
        await eventually(
            lambda: len(self.recorded(event, task_id=task_id)) >= count,
            within_s=within_s,
            message=f"{count} × {event!r} of task {task_id}; recorded: {self.recorded()[-10:]}",
        )


async def serving_port(coordinator: Child) -> int:
    """Where a coordinator serves, once it does."""
    found = await coordinator.wait_for_line(r"serving on 127\.0\.0\.1:(\d+)", within_s=START_S)
    return int(found[1])


@asynccontextmanager
async def deployed(children: Children, folder: Path, *options: str, store: Sequence[str] = (), **modules: str) -> AsyncIterator[Deployment]:
    """A deployment whose coordinator serves. Its processes end with the block, the store too, however its coordinator ended."""
    deployment = Deployment(children=children, folder=folder, options=options, store=store, **modules)
    try:
        await deployment.start_coordinator()
        yield deployment
    finally:
        deployment.signal_store(signal.SIGCONT)
        await children.stop_all()
        with contextlib.suppress(ProcessLookupError):
            deployment.end_store()


@asynccontextmanager
async def client_of(deployment: Deployment) -> AsyncIterator[Client]:
    """A client that waits out what these tests do to its coordinator."""
    async with Client(deployment.address, connect_timeout_s=60.0) as client:
        yield client


async def settled(*awaitables: asyncio.Future[object]) -> None:
    """Waits for all, whichever way they end."""
    await asyncio.gather(*awaitables, return_exceptions=True)
