"""Every operator's action while dispatch runs at full speed: it works, dispatch goes on, and each run of each task has one outcome (G2)."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from muster.v1 import common_pb2, policy_pb2

from agent_node import Client, MusterError, NotFoundError, Priority, Scheduling, TaskCancelledError, TaskHandle, TaskRequest
from tests.e2e.deployment import Deployment, client_of, deployed
from tests.e2e.journal_audit import audit
from tests.e2e.workers import answer_to
from tests.support.eventually import eventually
from tests.support.processes import Children
from tests.support.receiver import SECRET, answers, receiving

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_OPTIONS = ("--lease", "10", "--session-grace", "10", "--webhook-allow", "127.0.0.1", "--snapshot-after", str(2**40))
_LANES = 4
_BATCH = 250  # tasks that a lane submits at once, and whose results it then awaits
_UNDISTURBED = 4_000  # results before the first action: the rate to compare with
_GOES_ON = 500  # results that must come during each action, or right after a short one
_LEAST_SHARE = 0.25  # of the undisturbed rate: the actions, and thousands of tasks of their own, take their part of two cores
WITHIN_S = 30.0


class Load:
    """Clients that submit as fast as they are answered, and check each result.

    Args:
        clients: each has lanes of its own.
    """

    def __init__(self, clients: Sequence[Client]) -> None:
        self.acknowledged: set[str] = set()
        self.results = 0
        self.wrong: list[str] = []
        self.stopping = False
        self.during: Counter[str] = Counter()  # results that came during each action
        self._clients = clients

    async def run(self) -> None:
        """Submits until it is stopped, and returns when every result is there."""
        async with asyncio.TaskGroup() as group:
            for lane in range(_LANES):
                group.create_task(self._lane(self._clients[lane % len(self._clients)], lane))

    async def _lane(self, client: Client, lane: int) -> None:
        number = 0
        while not self.stopping:
            payloads = [f"{lane} {number + place}".encode() for place in range(_BATCH)]
            number += _BATCH
            keys = ("red", "blue")
            handles = taken(
                await client.submit_many(
                    TaskRequest("digest", payload, scheduling=Scheduling(fairness_key=keys[place % 2]))
                    for place, payload in enumerate(payloads)
                )
            )
            self.acknowledged |= {handle.task_id for handle in handles}
            for handle, payload in zip(handles, payloads, strict=True):
                if (await handle.result()).payload != answer_to(payload):
                    self.wrong.append(handle.task_id)
                self.results += 1

    async def submit(self, client: Client, requests: Iterable[TaskRequest]) -> list[TaskHandle]:
        """Submits an action's own tasks."""
        handles = taken(await client.submit_many(requests))
        self.acknowledged |= {handle.task_id for handle in handles}
        return handles

    @asynccontextmanager
    async def going_on(self, action: str) -> AsyncIterator[None]:
        """Results come meanwhile, and at once after it."""
        before = self.results
        yield
        self.during[action] = self.results - before
        await eventually(lambda: self.results >= before + _GOES_ON, within_s=WITHIN_S, message=f"dispatch to go on beside {action}")


def taken(submitted: list[TaskHandle | MusterError]) -> list[TaskHandle]:
    handles = [each for each in submitted if not isinstance(each, MusterError)]
    assert len(handles) == len(submitted), [each for each in submitted if isinstance(each, MusterError)][:3]
    return handles


async def ids(client: Client, wanted: str) -> set[str]:
    return {task.task_id async for task in client.list(wanted, page_size=1000)}


async def cancel_and_reprioritise(load: Load, client: Client, deployment: Deployment) -> None:
    """A backlog that nobody serves, and tasks at work."""
    backlog = await load.submit(
        client, (TaskRequest("nobody", labels={"half": "ab"[number % 2]}, want_result=False) for number in range(3_000))
    )
    async with load.going_on("reprioritise"):
        wanted = 'task_type = nobody AND labels.half = "b"'
        assert (await client.reprioritise(filter=wanted, priority=Priority.CRITICAL, dry_run=True)).changed == 1_500
        assert (await client.reprioritise(filter=wanted, priority=Priority.CRITICAL, reason="urgent")).changed == 1_500
        assert len(await ids(client, "task_type = nobody AND priority = CRITICAL")) == 1_500
    working = await load.submit(client, (TaskRequest("at-gate", "never") for _ in range(20)))
    await deployment.until_recorded("started", count=20, within_s=WITHIN_S)
    async with load.going_on("cancel"):
        done = await client.cancel_matching(filter="task_type = at-gate OR labels.half = a", reason="enough")
        assert (done.changed, list(done.skipped)) == (1_520, [])
        for handle in working:
            with pytest.raises(TaskCancelledError, match="enough"):
                await handle.result(WITHIN_S)
        assert (await client.cancel_matching([handle.task_id for handle in backlog])).changed == 1_500
    assert not await ids(client, "task_type = nobody AND (state = PENDING OR state = RUNNING)")


async def mend_dead_letters(load: Load, client: Client, deployment: Deployment) -> None:
    """Tasks that fail by the retry policy of their type, are found, and run again once what was broken is mended."""
    retry = policy_pb2.RetryDefaultsPolicy(task_type="when-mended", retry_policy=common_pb2.RetryPolicy(max_retries=0))
    async with load.going_on("retry defaults"):
        await client.set_policies([policy_pb2.Policy(retry_defaults=retry)])
    broken = {
        handle.task_id
        for handle in await load.submit(client, (TaskRequest("when-mended", "mended", want_result=False) for _ in range(1_500)))
    }
    dead = "task_type = when-mended AND state = FAILED"
    async with load.going_on("dead letters"):

        async def all_failed() -> bool:
            return await ids(client, dead) == broken

        await eventually(all_failed, within_s=WITHIN_S, message="all to fail")
        one = await client.get(min(broken), full=True)
        assert (one.retry_count, one.last_failure.message, one.run) == (0, "it is broken", 1)
    deployment.open_gate("mended")
    async with load.going_on("redrive"):
        assert (await client.redrive(filter=dead, dry_run=True)).changed == 1_500
        assert (await client.redrive(filter=dead, reason="mended")).changed == 1_500

        async def all_completed() -> bool:
            return await ids(client, "task_type = when-mended AND state = COMPLETED") == broken

        await eventually(all_completed, within_s=WITHIN_S, message="all to complete")
    after = await client.get(min(broken), full=True)
    assert after.run == 2
    assert after.fence > one.fence
    assert (await client.redrive(sorted(broken)[:5])).skipped[0].count == 5, "what completed doesn't run again"


async def purge(load: Load, client: Client) -> set[str]:
    """Ended tasks that are forgotten. Answers which."""
    handles = await load.submit(client, (TaskRequest("digest", b"doomed", labels={"doomed": "yes"}) for _ in range(1_000)))
    for handle in handles:
        await handle.result(WITHIN_S)
    doomed = {handle.task_id for handle in handles}
    gone = 0
    async with load.going_on("purge"):

        async def all_gone() -> bool:
            nonlocal gone
            gone += (await client.purge(filter="labels.doomed = yes")).changed
            return gone == 1_000

        await eventually(all_gone, within_s=WITHIN_S, message="all to be old enough, and forgotten")
        assert not await ids(client, "labels.doomed = yes")
        with pytest.raises(NotFoundError):
            await client.get(min(doomed))
    return doomed


async def hold_by_limits(load: Load, client: Client) -> None:
    """Limits and weights that are set, changed and deleted."""
    concurrency = policy_pb2.ConcurrencyLimitPolicy(concurrency_key="held", max_running=0)
    rate = policy_pb2.RateLimitPolicy(rate_key="held", count=0)
    rate.period.seconds = 60
    async with load.going_on("limits"):
        weight = policy_pb2.Policy(weight=policy_pb2.WeightPolicy(fairness_key="red", weight=3))
        await client.set_policies([weight, policy_pb2.Policy(concurrency_limit=concurrency), policy_pb2.Policy(rate_limit=rate)])
        keys = (Scheduling(concurrency_key="held"), Scheduling(rate_key="held"))
        held = await load.submit(
            client, (TaskRequest("digest", b"held", scheduling=keys[number % 2], labels={"held": "yes"}) for number in range(400))
        )
    async with load.going_on("limits hold"):
        assert len(await ids(client, "labels.held = yes AND state = PENDING")) == 400
        assert {use.waiting for use in await client.limits()} == {200}
    async with load.going_on("limits let go"):
        concurrency.max_running = 5
        await client.set_policies([policy_pb2.Policy(concurrency_limit=concurrency)])
        await client.delete_policies([policy_pb2.PolicyName(kind=policy_pb2.POLICY_KIND_RATE_LIMIT, key="held")])
        for handle in held:
            await handle.result(WITHIN_S)
    async with load.going_on("policies deleted"):
        names = [(policy_pb2.POLICY_KIND_CONCURRENCY_LIMIT, "held"), (policy_pb2.POLICY_KIND_WEIGHT, "red")]
        await client.delete_policies([policy_pb2.PolicyName(kind=kind, key=key) for kind, key in names])


async def hold_by_pauses(load: Load, client: Client, deployment: Deployment) -> None:
    """A type that is paused and resumed, and an agent that is cordoned and uncordoned."""
    async with load.going_on("pause"):
        await client.pause("recorded-digest", reason="being mended")
        held = await load.submit(client, (TaskRequest("recorded-digest", b"held") for _ in range(100)))
        assert len(await ids(client, "task_type = recorded-digest AND state = PENDING")) == 100
    assert not deployment.recorded("executed")
    async with load.going_on("resume"):
        assert await client.resume("recorded-digest")
        for handle in held:
            await handle.result(WITHIN_S)

    async def running_on_b() -> int:
        return sum(agent.running for agent in await client.agents() if agent.agent_name == "b")

    async with load.going_on("cordon"):
        await client.cordon("b")

        async def idle() -> bool:
            return await running_on_b() == 0

        await eventually(idle, within_s=WITHIN_S, message="the cordoned agent to finish what it had")
    assert await running_on_b() == 0, "dispatch has gone on without it"
    async with load.going_on("uncordon"):
        assert await client.uncordon("b")
        await eventually(running_on_b, within_s=WITHIN_S, message="the agent to have work again")


async def tell(load: Load, client: Client) -> None:
    """A webhook of a type, set and deleted."""
    async with receiving(answers()) as receiver, load.going_on("webhooks"):
        hook = policy_pb2.WebhookPolicy(task_type="recorded-digest", url=receiver.url, secrets=[SECRET])
        await client.set_policies([policy_pb2.Policy(webhook=hook)])
        told = {handle.task_id for handle in await load.submit(client, (TaskRequest("recorded-digest", b"told") for _ in range(50)))}
        await eventually(
            lambda: {request.said["data"]["task_id"] for request in receiver.requests} == told,
            within_s=WITHIN_S,
            message="all to be told of",
        )
        await client.delete_policies([policy_pb2.PolicyName(kind=policy_pb2.POLICY_KIND_WEBHOOK, key="recorded-digest")])


async def test_every_action_works_beside_dispatch_at_full_speed(children: Children, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with deployed(children, tmp_path, *_OPTIONS, module="tests.e2e.hasty_coordinator") as deployment:
        for name in ("a", "b"):
            deployment.start_agent(name, capacity=500)
        async with client_of(deployment) as one, client_of(deployment) as other, client_of(deployment) as client:
            await deployment.agent_connected(client, "a", "b")
            load = Load([one, other])
            running = asyncio.create_task(load.run())
            try:
                await eventually(lambda: load.results > _BATCH, within_s=WITHIN_S, message="dispatch to begin")
                begin_s, begun = loop.time(), load.results
                await eventually(lambda: load.results >= begun + _UNDISTURBED, within_s=WITHIN_S, message="dispatch at full speed")
                usual = (load.results - begun) / (loop.time() - begin_s)
                begin_s, begun = loop.time(), load.results
                await cancel_and_reprioritise(load, client, deployment)
                await mend_dead_letters(load, client, deployment)
                purged = await purge(load, client)
                await hold_by_limits(load, client)
                await hold_by_pauses(load, client, deployment)
                await tell(load, client)
                took_s = loop.time() - begin_s
                meanwhile = (load.results - begun) / took_s
                load.stopping = True
                await running
            finally:
                running.cancel()
            print(f"{usual:.0f} tasks/s alone, {meanwhile:.0f} beside {took_s:.1f} s of actions; results during each: {dict(load.during)}")
            assert not load.wrong
            assert meanwhile >= _LEAST_SHARE * usual
            stats = await client.queue_stats()
            assert stats.pending + stats.running + stats.retrying == 0
        begin_s = loop.time()
        found = await audit(deployment.store_socket)
        print(f"journal of {len(load.acknowledged)} tasks, read in {loop.time() - begin_s:.1f} s:", dict(found.events))
        found.check(ended=load.acknowledged, purged=purged)
        assert found.events["Redriven"] == 1_500
        assert found.events["Reprioritised"] == 1_500
        assert Counter(life.runs for life in found.lives.values())[2] == 1_500
