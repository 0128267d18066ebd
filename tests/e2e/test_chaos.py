"""Many tasks while the coordinator, an agent and the store are killed with -9 again and again: every acknowledged one has one outcome.

make test ARGS="tests/e2e/test_chaos.py -s --chaos-tasks=100000 --chaos-kills=10 --randomly-seed=7" goes on for longer.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from muster.v1 import common_pb2
from redis.asyncio import Redis

from agent_node import Client, RetryPolicy
from coordinator.journal.layout import ShardKeys, shard_of
from tests.e2e.deployment import Deployment, client_of, deployed
from tests.e2e.journal_audit import audit
from tests.e2e.store_check import assert_consistent
from tests.e2e.workers import answer_to
from tests.support.eventually import eventually
from tests.support.processes import Child, Children

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

_LANES = 600  # submits or results that are awaited at once
_TIMING = ("--lease", "2", "--session-grace", "2", "--log-level", "info")
_WHOLE_JOURNAL = (*_TIMING, "--snapshot-after", str(2**40))
_AGENTS = ("victim", "steady-1", "steady-2")
# A task may be with the victim each time, and a crash is the victim's fault: the limit on crashes is tested elsewhere.
_PATIENT = RetryPolicy(max_crashes=100)


@dataclass
class Load:
    """Submits tasks from many lanes, and checks each result against what it must be."""

    client: Client
    task_type: str
    total: int
    rng: random.Random
    acknowledged: set[str] = field(default_factory=set)
    results: int = 0
    wrong: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Returns when every task was acknowledged, and every result that was asked for is there."""
        async with asyncio.TaskGroup() as group:
            for lane in range(min(_LANES, self.total)):
                group.create_task(self._lane(range(lane, self.total, _LANES)))

    async def _lane(self, numbers: range) -> None:
        for number in numbers:
            payload = f"payload {number}".encode()
            own_id = f"own-{number}" if number % 5 == 0 else None  # looked up in the store by the coordinator, unlike a fresh UUIDv7
            want_result = number % 7 != 0
            handle = await self.client.submit(
                self.task_type, payload, task_id=own_id, want_result=want_result, retry=_PATIENT, priority=self.rng.choice([1, 2, 3, 4])
            )
            self.acknowledged.add(handle.task_id)
            if want_result:
                output = await handle.result()
                if output.payload != answer_to(payload):
                    self.wrong.append(f"{handle.task_id} returned {output.payload!r}")
            self.results += 1


class Killer:
    """Kills according to a plan: who, and after how many results."""

    def __init__(self, *, deployment: Deployment, load: Load, kills: int, rng: random.Random) -> None:
        self._deployment = deployment
        self._load = load
        self._victim: Child = deployment.start_agent(_AGENTS[0], capacity=100)
        self.killed: Counter[str] = Counter()
        victims = ["coordinator", "agent", "store"] * kills
        rng.shuffle(victims)
        points = sorted(rng.randrange(load.total // 20, load.total * 9 // 10) for _ in victims)
        self._plan = list(zip(points, victims, strict=True))
        print("plan:", self._plan)

    async def run(self) -> None:
        """Returns when all is done."""
        for point, victim in self._plan:
            await eventually(
                lambda point=point: self._load.results >= point,  # type: ignore[misc]
                within_s=120.0,
                message=f"{point} results; there are {self._load.results}; killed so far: {self.killed}",
            )
            match victim:
                case "coordinator":
                    await self._deployment.kill_coordinator()
                case "agent":
                    self._victim.kill()
                    self._victim = self._deployment.start_agent(_AGENTS[0], capacity=100)
                case _:
                    await self._deployment.kill_store()
            self.killed[victim] += 1


async def run_chaos(deployment: Deployment, client: Client, *, task_type: str, tasks: int, kills: int, seed: int) -> set[str]:
    """Runs the load while killing, and checks every outcome by the API and by the journal. Answers the tasks' ids."""
    rng = random.Random(seed)
    load = Load(client=client, task_type=task_type, total=tasks, rng=rng)
    killer = Killer(deployment=deployment, load=load, kills=kills, rng=rng)
    for name in _AGENTS[1:]:
        deployment.start_agent(name, capacity=100)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        group.create_task(killer.run())
    assert killer.killed == {"coordinator": kills, "agent": kills, "store": kills}
    assert not load.wrong
    assert len(load.acknowledged) == tasks

    async def all_ended() -> bool:
        stats = await client.queue_stats()
        return stats.pending + stats.running + stats.retrying == 0

    await eventually(all_ended, within_s=60.0, message="tasks whose results nobody asked for to end")
    listed = Counter[str]()
    async for task in client.list(page_size=1000):
        assert task.state == common_pb2.TASK_STATE_COMPLETED, task
        listed[task.task_id] += 1
    assert listed == Counter(load.acknowledged)
    return load.acknowledged


async def check_journal(deployment: Deployment, *, tasks: set[str], kills: int) -> None:
    """Checks what the whole journal says of the tasks: there must have been no snapshot."""
    found = await audit(deployment.store_socket)
    print("journal:", dict(found.events), "epochs:", len(found.epochs))
    found.check(ended=tasks)
    assert 2 <= len(found.epochs) <= kills + 1, "one for each coordinator that lived long enough to write"


async def test_every_acknowledged_task_has_one_outcome(children: Children, tmp_path, seed: int, chaos_tasks: int, chaos_kills: int) -> None:
    async with deployed(children, tmp_path, *_WHOLE_JOURNAL) as deployment, client_of(deployment) as client:
        tasks = await run_chaos(deployment, client, task_type="digest", tasks=chaos_tasks, kills=chaos_kills, seed=seed)
        await check_journal(deployment, tasks=tasks, kills=chaos_kills)
        await assert_consistent(deployment, client)


async def test_snapshots_come_in_between(children: Children, tmp_path, seed: int, chaos_tasks: int, chaos_kills: int) -> None:
    """Some hundred snapshots, begun and cut short and begun at: the API still knows every task, with one outcome each."""
    async with deployed(children, tmp_path, *_TIMING, "--snapshot-after", "50000") as deployment, client_of(deployment) as client:
        await run_chaos(deployment, client, task_type="digest", tasks=chaos_tasks // 2, kills=chaos_kills, seed=seed)
        store = Redis(unix_socket_path=str(deployment.store_socket), protocol=2)
        keys = ShardKeys(prefix="muster", shard=shard_of("default", shards=16))
        try:
            ended, last = await store.hmget(keys.head, "snapshot_sequence", "sequence")
            print("entries:", int(last), "the last snapshot's:", int(ended), "still there:", await store.xlen(keys.journal))
            assert await store.xlen(keys.journal) < int(last) // 2
        finally:
            await store.aclose()
        await assert_consistent(deployment, client)


async def test_what_ran_twice_is_explained_by_a_kill(children: Children, tmp_path, seed: int, chaos_tasks: int) -> None:
    """Handlers leave a trace: execution is at least once, each under a fence of its own, and repeated only where the journal says why."""
    async with deployed(children, tmp_path, *_WHOLE_JOURNAL) as deployment:
        async with client_of(deployment) as client:
            tasks = await run_chaos(deployment, client, task_type="recorded-digest", tasks=chaos_tasks // 5, kills=2, seed=seed)
            await check_journal(deployment, tasks=tasks, kills=2)
        executions: dict[str, list[int]] = {}
        for line in deployment.recorded("executed"):
            executions.setdefault(str(line["task_id"]), []).append(int(str(line["fence"])))
        found = await audit(deployment.store_socket)
    assert executions.keys() == tasks
    repeated = {task_id: fences for task_id, fences in executions.items() if len(fences) > 1}
    print(f"{len(repeated)} of {len(tasks)} tasks ran more than once")
    for task_id, fences in executions.items():
        life = found.lives[task_id]
        assert life.record is not None
        assert len(set(fences)) == len(fences), f"task {task_id} ran twice under one fence: {fences}"
        assert set(fences) <= set(life.fences), f"task {task_id} ran under a fence that the journal doesn't know: {fences} of {life.fences}"
        assert len(life.fences) > 1 or len(fences) == 1
        assert life.record.result_fence in fences, f"task {task_id} was completed by an execution that never was"
