"""A client process of a soak: submits at a steady pace whatever happens, checks every answer, and comes and goes in every way there is.

It begins with SIGUSR2, stops submitting with SIGUSR1, says "drained" once everything has ended, and leaves with SIGTERM. Its ledger has a
line per task: `T id kind` when it was taken, `E id end` when its end was told, `S id kind` where nobody knows whether it was taken.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TextIO

import grpc.aio
from muster.v1 import common_pb2, task_pb2, task_pb2_grpc

from agent_node import Client, TaskHandle
from agent_node.cli.bench.loop import loop_factory
from agent_node.errors import MusterError, TaskCancelledError, TaskFailedError, UnavailableError
from agent_node.ids import new_task_id
from tests.soak.census import report_in_loop
from tests.soak.leak import leak_a_task
from tests.soak.work import CANCELLED, COMPLETED, FAILED, KINDS, answer_to, task_type_of, until_reached

GIVE_UP_S = 20.0  # of submits; ended tasks are held for twice as long
RESTLESS_SHARE = 0.2  # of tasks go by way of a client that is closed every few seconds
RESTLESS_S = 4.0
_STEP_S = 0.01
_MOST_OUTSTANDING = 40_000
_FLUSH_S = 0.5


@dataclass
class Tally:
    """What has happened so far."""

    submitted: int = 0
    taken: int = 0
    ended: int = 0
    refused: int = 0
    held_back: int = 0  # not submitted when they were due, for too many were outstanding
    faults: list[str] = field(default_factory=list)


class Load:
    """The load of one process.

    Args:
        address: the coordinator's.
        name: told from other processes' by it.
        rate: tasks a second.
        ledger: where it writes what became of them.
        rng: draws kinds and options.
    """

    def __init__(self, *, address: str, name: str, rate: float, ledger: TextIO, rng: random.Random) -> None:
        self.tally = Tally()
        self.stopping = asyncio.Event()
        self.client = self._new_client(address)
        self.restless = self._new_client(address)
        self._address = address
        self._name = name
        self._rate = rate
        self._ledger = ledger
        self._rng = rng
        self._numbers = count(1)
        self._work: set[asyncio.Task[None]] = set()
        self._names = list(KINDS)
        self._shares = [kind.share for kind in KINDS.values()]

    @staticmethod
    def _new_client(address: str) -> Client:
        return Client(address, give_up_s=GIVE_UP_S, connect_timeout_s=60.0, call_timeout_s=10.0)

    async def run(self) -> None:
        """Submits until stopped, and returns when everything has ended."""
        loop = asyncio.get_running_loop()
        visits = [asyncio.create_task(self._again_and_again(visit, pause_s)) for visit, pause_s in VISITS]
        visits.append(asyncio.create_task(self._change_clients()))
        begin_s, due = loop.time(), 0
        while not self.stopping.is_set():
            now_due = int((loop.time() - begin_s) * self._rate)
            room = _MOST_OUTSTANDING - len(self._work)
            self.tally.held_back += max(0, now_due - due - room)
            for _ in range(min(now_due - due, room)):
                self._start(self._one())
            due = now_due
            await asyncio.sleep(_STEP_S)
        for visit in visits:
            visit.cancel()
        await asyncio.gather(*visits, return_exceptions=True)
        while self._work:
            await asyncio.wait(self._work)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fault(f"{type(error).__name__}: {error}")

    def fault(self, what: str) -> None:
        self.tally.faults.append(what)
        print("fault:", what, flush=True)

    # --- one task -------------------------------------------------------------------------------------------------------------

    async def _one(self) -> None:
        rng = self._rng
        (name,) = rng.choices(self._names, self._shares)
        kind = KINDS[name]
        payload = f"{self._name} {next(self._numbers)} ".encode().ljust(100, b".") + bytes([rng.randrange(256)])
        is_restless = rng.random() < RESTLESS_SHARE
        options = {"retry": kind.retry, "task_id": new_task_id() if is_restless else None, **kind.options(rng)}
        self.tally.submitted += 1
        handle = await self._submitted(task_type_of(name), payload, is_restless, {**options, "want_result": kind.needs_answer})
        self.tally.taken += 1
        self._ledger.write(f"T {handle.task_id} {name}\n")
        if kind.then is not None:
            self._start(kind.then(self.client, handle, rng))
        if not kind.needs_answer:
            self.tally.ended += 1
            return
        end = await self._end_of(handle, payload, is_restless)
        self.tally.ended += 1
        self._ledger.write(f"E {handle.task_id} {end}\n")
        if end not in kind.ends:
            self.fault(f"task {handle.task_id} of kind {name} ended {end}")

    async def _submitted(self, task_type: str, payload: bytes, is_restless: bool, options: dict[str, object]) -> TaskHandle:
        """The id is ours where the client may be closed under us: then it is submitted again, and is the same task."""
        while True:
            try:
                return await (self.restless if is_restless else self.client).submit(task_type, payload, **options)  # type: ignore[arg-type]
            except UnavailableError:
                if not is_restless:
                    raise
                await asyncio.sleep(0)

    async def _end_of(self, handle: TaskHandle, payload: bytes, is_restless: bool) -> str:
        while True:
            try:
                output = await handle.result()
            except TaskFailedError:
                return FAILED
            except TaskCancelledError:
                return CANCELLED
            except UnavailableError:
                if not is_restless:
                    raise
                handle = self.restless.attach(handle.task_id)
                continue
            return COMPLETED if output.payload == answer_to(payload) else "WRONG"

    # --- comings and goings ----------------------------------------------------------------------------------------------------

    async def _change_clients(self) -> None:
        """Closes the restless client and opens another: whoever waited attaches to the new one."""
        while True:
            await asyncio.sleep(RESTLESS_S * self._rng.uniform(0.5, 1.5))
            old, self.restless = self.restless, self._new_client(self._address)
            await old.aclose()

    async def _again_and_again(self, visit: "Visit", pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.5))
            with contextlib.suppress(MusterError, grpc.aio.AioRpcError):
                await visit(self)

    async def watch_by_filter(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._rng.uniform(0.5, 3.0)):
                async for _ in self.client.watch(filter='task_type = "soak.plain"', chunks=True, progress=True):
                    pass

    async def watch_by_id(self) -> None:
        ids = [new_task_id() for _ in range(5)]
        for task_id in ids:
            self._ledger.write(f"S {task_id} plain\n")
            await self.client.submit(task_type_of("plain"), b"watched", task_id=task_id)
        async for _ in self.client.watch(ids, full=True):
            pass

    async def leave_a_watch_unread(self) -> None:
        """Opens a watch, and is gone without a word."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            call = task_pb2_grpc.TaskServiceStub(channel).WatchTasks(task_pb2.WatchTasksRequest(filter="state = RUNNING"))
            await call.read()

    async def break_a_session(self) -> None:
        """Submits tasks on a session of its own, and is gone before they are acknowledged, or before their results came."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            call = task_pb2_grpc.TaskServiceStub(channel).Session()
            await call.read()
            batch = task_pb2.SubmitBatch(batch_id=1, first_send=True)
            for _ in range(5):
                batch.tasks.add(task_id=new_task_id(), task_type=task_type_of("plain"), payload=b"left behind")
                self._ledger.write(f"S {batch.tasks[-1].task_id} plain\n")
            await call.write(task_pb2.SessionRequest(submit=batch))
            if self._rng.random() < 0.5:
                await call.read()

    async def submit_by_call(self) -> None:
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = task_pb2_grpc.TaskServiceStub(channel)
            task = common_pb2.TaskSpec(task_id=new_task_id(), task_type=task_type_of("plain"), payload=b"by call")
            self._ledger.write(f"S {task.task_id} plain\n")
            await stub.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=[task]), timeout=5)

    async def ask_in_vain(self) -> None:
        """For what isn't there, and what can't be."""
        for call in (lambda: self.client.get("nobody"), lambda: self.client.attach("nobody").result(5)):
            with contextlib.suppress(MusterError, TimeoutError):
                await call()
        with contextlib.suppress(MusterError):
            await self.client.submit("x" * 1000)


Visit = Callable[[Load], Awaitable[None]]
VISITS: list[tuple[Visit, float]] = [
    (Load.watch_by_filter, 1.5),
    (Load.watch_by_id, 0.5),
    (Load.leave_a_watch_unread, 1.0),
    (Load.break_a_session, 1.0),
    (Load.submit_by_call, 0.5),
    (Load.ask_in_vain, 1.0),
]
"""What a process does beside its load, and how many seconds it rests in between, about."""


async def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--address", "--name", "--ledger"):
        parser.add_argument(name, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    loop = asyncio.get_running_loop()
    begin, end = asyncio.Event(), asyncio.Event()
    with Path(options.ledger).open("a") as ledger:
        load = Load(address=options.address, name=options.name, rate=options.rate, ledger=ledger, rng=random.Random(options.seed))
        for number, event in ((signal.SIGUSR2, begin), (signal.SIGUSR1, load.stopping), (signal.SIGTERM, end)):
            loop.add_signal_handler(number, event.set)
        census = asyncio.create_task(report_in_loop("client", load, package="agent_node"))
        flushing = asyncio.create_task(_flush(ledger))
        async with load.client:
            await until_reached(load.client.coordinator)
            print("ready", flush=True)
            await begin.wait()
            leak_a_task("client")
            await load.run()
            await load.restless.aclose()
            ledger.flush()
            print("drained", json.dumps(vars(load.tally)), flush=True)
            await end.wait()
        census.cancel()
        flushing.cancel()


async def _flush(ledger: TextIO) -> None:
    while True:
        await asyncio.sleep(_FLUSH_S)
        ledger.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())
