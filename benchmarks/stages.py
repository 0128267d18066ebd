"""What one task costs the coordinator, stage by stage: its own code in one process, without gRPC, a store's server, or agents.

`muster bench dispatch` measures the whole path, and is as noisy as the machine. Here a microsecond more or less per task shows:

    python -m benchmarks.stages --batch 256 --agents 1
"""

import argparse
import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import Sequence
from statistics import quantiles

from muster.v1 import agent_pb2, task_pb2

from agent_node.cli.bench.loop import loop_factory
from agent_node.ids import new_task_id
from coordinator.clock import BootClock
from coordinator.convert import Bounds
from coordinator.core.model import Settings
from coordinator.engine.namespace import Namespace
from coordinator.engine.shard import Shard
from coordinator.ids import Entropy
from coordinator.journal import codec
from coordinator.journal.memory_store import MemoryShard, MemoryShardStore
from coordinator.ports import Appended, EndedTask
from coordinator.rpc.agent_stream import AgentStream
from coordinator.rpc.client_session import ClientSession

TASK_TYPE = "bench.noop"
PAYLOAD = bytes(100)
CAPACITY = 1000


class ForgetfulStore(MemoryShardStore):
    """Notes when an append begins, and keeps nothing of it."""

    appended_s = 0.0

    async def append(
        self,
        *,
        sequence: int,
        commit_nonce: str,
        blob: bytes,  # noqa: ARG002
        ended: Sequence[EndedTask],  # noqa: ARG002
        redriven: Sequence[tuple[str, str]] = (),  # noqa: ARG002
    ) -> Appended:
        """See ShardStore."""
        self.appended_s = time.perf_counter()
        return await super().append(sequence=sequence, commit_nonce=commit_nonce, blob=b"", ended=())


class Bench:
    """A shard with one client's session and some agents' streams, driven by hand.

    Args:
        shard: the shard, served.
        store: its store.
        agents: how many agents.
    """

    def __init__(self, *, shard: Shard, store: ForgetfulStore, namespace: Namespace, agents: int) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)  # by stage, one entry per round
        self._shard, self._store = shard, store
        self._client = ClientSession(shard=shard, namespace=namespace, session="client", bounds=Bounds())
        self._agents = [AgentStream(shard=shard, namespace=namespace, session=f"s{n}", bounds=Bounds()) for n in range(agents)]

    async def connect(self) -> None:
        """The agents say Hello, and that they are ready."""
        for number, agent in enumerate(self._agents):
            hello = agent_pb2.Hello(agent_name=f"agent-{number}", session_nonce="n" * 16, protocol_version=1, max_concurrent_tasks=CAPACITY)
            hello.capabilities.add(task_type=TASK_TYPE)
            agent._open(agent_pb2.ConnectRequest(hello=hello))  # noqa: SLF001 - what its stream does with the first message
            agent._handle(agent_pb2.ConnectRequest(ready=agent_pb2.Ready(limit=CAPACITY)))  # noqa: SLF001 - and with the others
            await self._commit("")
            agent.next_message()
        self._client.next_message()
        self.seconds.clear()

    async def round(self, batch: int) -> None:
        """`batch` tasks, from a client's message to the results' message."""
        blob = self._submit_message(batch)
        gc.collect(0)
        start = time.perf_counter()
        request = task_pb2.SessionRequest.FromString(blob)
        self._client._submit(request.submit)  # noqa: SLF001 - what its stream does with the message
        self._note("1 submit: parse, check, decide, place", start)
        await self._commit("2 submit and assignment")
        assigned = []
        start = time.perf_counter()
        for agent in self._agents:
            while (message := agent.next_message()) is not None:
                assigned.append((agent, message))
        self._note("3 assignments: compose", start)
        self._client.next_message()  # the acknowledgement
        reports = [(agent, self._report_message(message)) for agent, message in assigned]
        start = time.perf_counter()
        for agent, report in reports:
            agent._handle(agent_pb2.ConnectRequest.FromString(report))  # noqa: SLF001 - as above
        self._note("4 results: parse, check, decide", start)
        await self._commit("5 completion")
        start = time.perf_counter()
        while self._client.next_message() is not None:
            pass
        self._note("6 results: compose", start)

    async def _commit(self, stage: str) -> None:
        durable = asyncio.get_running_loop().create_future()
        self._shard.when_durable(lambda: durable.set_result(None))
        start = time.perf_counter()
        await durable
        self.seconds[f"{stage}: encode"].append(self._store.appended_s - start)
        self._note(f"{stage}: release", self._store.appended_s)

    def _note(self, stage: str, start: float) -> None:
        self.seconds[stage].append(time.perf_counter() - start)

    def _submit_message(self, batch: int) -> bytes:
        request = task_pb2.SessionRequest(submit=task_pb2.SubmitBatch(batch_id=1, first_send=True))
        for _ in range(batch):
            request.submit.tasks.add(task_id=new_task_id(), task_type=TASK_TYPE, payload=PAYLOAD, content_type="application/octet-stream")
        return request.SerializeToString()

    def _report_message(self, message: bytes) -> bytes:
        report = agent_pb2.ConnectRequest(results=agent_pb2.ResultBatch(batch_id=1))
        assign = agent_pb2.ConnectResponse.FromString(message).assign
        report.acknowledged_batch_ids.append(assign.batch_id)
        for assignment in assign.assignments:
            report.results.results.add(task_id=assignment.task.task_id, fence=assignment.fence).outcome.success.SetInParent()
        return report.SerializeToString()


async def measure(*, batch: int, agents: int, rounds: int) -> dict[str, float]:
    """Microseconds per task, by stage: the lower quartile over `rounds`, which a busy machine moves least."""
    store = ForgetfulStore(shard=MemoryShard(), now_ms=lambda: 1_000)
    shard = Shard(number=0, store=store, codec=codec, settings=Settings(), clock=BootClock(), entropy=Entropy(), default_here=True)
    started = asyncio.Event()
    serving = asyncio.create_task(shard.run(started))
    await started.wait()
    bench = Bench(shard=shard, store=store, namespace=shard.namespaces["default"], agents=agents)
    await bench.connect()
    for _ in range(rounds):
        await bench.round(batch)
    serving.cancel()
    return {stage: quantiles(seconds, n=4)[0] / batch * 1e6 for stage, seconds in sorted(bench.seconds.items())}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description="What one task costs the coordinator, by stage.")
    parser.add_argument("--batch", type=int, default=256, metavar="N", help="tasks a message (default 256)")
    parser.add_argument("--agents", type=int, default=1, metavar="N", help=f"agents, of capacity {CAPACITY} each (default 1)")
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="how often (default 100)")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        stages = runner.run(measure(batch=options.batch, agents=options.agents, rounds=options.rounds))
    for stage, cost_us in stages.items():
        print(f"{cost_us:7.2f} us  {stage}")
    print(f"{sum(stages.values()):7.2f} us  in all")


if __name__ == "__main__":
    main()
