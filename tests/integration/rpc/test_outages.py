"""The store fails under a coordinator: nothing acknowledged is lost, nothing times out, and every caller is told."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import admin_pb2, agent_pb2, common_pb2, task_pb2

from coordinator.core.model import Settings
from coordinator.engine import commits
from coordinator.engine.ownership import ShardLost
from coordinator.journal.memory_store import Fault, MemoryShardStore
from tests.support.eventually import eventually
from tests.support.hosted import PATIENT_S, MemoryShard, hosted, spec_of, success
from tests.support.refusals import refusal

COMPLETED, PENDING, RUNNING = common_pb2.TASK_STATE_COMPLETED, common_pb2.TASK_STATE_PENDING, common_pb2.TASK_STATE_RUNNING
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def _outage(muster, client, task_id="cause", *, kind=Fault.BEFORE):
    """The store fails, and the coordinator notices by a write."""
    muster.faults.outage(kind=kind)
    await client.send(
        task_pb2.SessionRequest(submit=task_pb2.SubmitBatch(batch_id=999, tasks=[spec_of(task_id, "other")], first_send=True))
    )
    await eventually(lambda: muster.shard.outage_since_s is not None, message="the outage to be noticed")


def _is_unavailable(why, reason="STORE_UNAVAILABLE"):
    assert (why.code, why.reason, why.domain) == (UNAVAILABLE, reason, "muster"), why
    assert why.retry_after_s == (0.1 if reason == "SHARD_MOVED" else 1.0)


@pytest.mark.parametrize("kind", [Fault.BEFORE, Fault.AFTER], ids=["refused", "answer lost"])
async def test_an_outage_is_ridden_out(kind):
    data = MemoryShard()
    async with hosted(data=data) as muster:
        client = await muster.session()
        agent = await muster.agent("worker")
        await client.submit(spec_of("runs"), batch_id=1)
        (assignment,) = await agent.assigned()
        await _outage(muster, client, kind=kind)
        journal_before = dict(data.journal)

        # new writes are refused, with the time to come back
        _is_unavailable(await refusal(muster.tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=[spec_of("new")]))))
        _is_unavailable(await refusal(muster.tasks.CancelTasks(task_pb2.CancelTasksRequest(task_ids=["runs"]))))
        _is_unavailable(await refusal(muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="new"))))
        ack = await client.submit(spec_of("new"), batch_id=2, first_send=True)
        (exception,) = ack.exceptions
        assert (exception.verdict, exception.refusal.reason, exception.refusal.retry_after.seconds) == (3, "STORE_UNAVAILABLE", 1)
        # reads fail after a second
        _is_unavailable(await refusal(muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id="cause"))))
        _is_unavailable(await refusal(muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id="nowhere"))))
        _is_unavailable(await refusal(muster.tasks.ListTasks(task_pb2.ListTasksRequest())))
        # but why a task waits is known
        why = await muster.tasks.ExplainTask(task_pb2.ExplainTaskRequest(task_id="cause"))
        assert why.task.waits_for.kind == task_pb2.WAIT_KIND_STORE_UNAVAILABLE
        # streams stay up: renewals are answered at once, results when it is over
        renew = agent_pb2.Renew(attempts=[agent_pb2.Renewal(task_id="runs", fence=assignment.fence)])
        await agent.send(agent_pb2.ConnectRequest(renew=renew))
        assert (await agent.until("renew_ack")).suspended
        await agent.send(agent_pb2.ConnectRequest(results=agent_pb2.ResultBatch(batch_id=1, results=[success("runs", assignment.fence)])))
        await agent.send(agent_pb2.ConnectRequest(renew=agent_pb2.Renew()))
        await eventually(lambda: sum(one.renew_ack.suspended for one in agent.received) == 2, message="the second answer")
        assert not any(message.result_acks for message in agent.received)
        assert not client.results()
        assert not any(ack.batch_id == 999 for message in client.received for ack in message.submit_acks)
        assert (client.ended, agent.ended) == (None, None)

        muster.faults.over()
        assert not (await client.acknowledged(999)).exceptions
        assert (await client.result("runs")).state == COMPLETED
        assert not (await agent.until("result_acks"))[0].exceptions
        written = [data.journal[sequence] for sequence in data.journal if sequence not in journal_before]
        assert len(written) == len(set(written)), "a commit of unknown fate was written twice"
        await muster.is_alive()
        muster.check()
    async with hosted(data=data) as muster:
        assert (await muster.get("runs")).state == COMPLETED
        assert (await muster.get("cause")).state == PENDING
        assert (await refusal(muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id="new")))).reason == "TASK_NOT_FOUND"


async def test_nothing_times_out_during_an_outage_and_leases_get_one_more_period_afterwards():
    async with hosted(core=Settings(lease_s=1.0, renew_period_s=0.3, session_grace_s=0.5, ack_timeout_s=0.5)) as muster:
        client = await muster.session()
        agent, gone, deaf = await muster.agent("worker"), await muster.agent("gone", ["g"]), await muster.agent("deaf", ["d"])
        await client.submit(
            spec_of("runs", run_timeout=Duration(seconds=2)), spec_of("left", "g"), spec_of("unacknowledged", "d"), batch_id=1
        )
        (assignment,) = await agent.assigned()
        await gone.assigned()
        await deaf.assigned()
        await agent.acknowledge_all()
        await gone.acknowledge_all()
        await eventually(
            lambda: not [a for n in ("worker", "gone") for a in muster.scheduler.load.agents[n].running.values() if not a.has_arrived()]
        )
        await gone.leave()
        await eventually(lambda: not muster.scheduler.load.agents["gone"].session, message="its session to end")
        await _outage(muster, client)
        since_s = muster.shard.outage_since_s

        async def renewed_until():  # an agent that says nothing at all is disconnected, outage or not
            for each in (agent, deaf):
                await each.send(agent_pb2.ConnectRequest(renew=agent_pb2.Renew()))
            await asyncio.sleep(0.1)
            return muster.shard._clock.now_s() - since_s > 2.5

        await eventually(renewed_until, message="two leases to pass")
        assert muster.scheduler.load.agents["gone"].running
        muster.faults.over()
        await eventually(lambda: muster.shard.outage_since_s is None, message="the store to be back")
        back_s = muster.shard._clock.now_s()
        (attempt,) = muster.scheduler.load.agents["worker"].running.values()
        assert attempt.run_until_s > muster.shard.now().mono_s, "its run_timeout stood still"
        tasks = [await muster.get(task_id) for task_id in ("runs", "left", "unacknowledged")]
        assert [(task.state, task.crash_count, task.undelivered_count) for task in tasks] == [(RUNNING, 0, 0)] * 3
        renewal = agent_pb2.Renewal(task_id="runs", fence=assignment.fence)

        async def given_up():
            await agent.send(agent_pb2.ConnectRequest(renew=agent_pb2.Renew(attempts=[renewal])))
            return (await muster.get("left")).crash_count == 1

        await eventually(given_up, within_s=PATIENT_S, message="the agent that left to be given up")
        assert muster.shard._clock.now_s() - back_s > 0.7, "it got one more period"
        assert not (await agent.succeed(assignment)).exceptions


async def test_a_diverged_shard_is_rebuilt_and_everything_acknowledged_is_there():
    data = MemoryShard()
    async with hosted(data=data) as muster:
        await muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="other"))
        client, agent = await muster.session(), await muster.agent("worker")
        elsewhere = await muster.session(namespace="other")
        await client.submit(*(spec_of(f"t{n}") for n in range(5)), spec_of("waits", "nobody"), batch_id=1)
        await elsewhere.submit(spec_of("there", "nobody"), batch_id=1)
        assignments = await agent.assigned(5)
        await agent.succeed(assignments[0])
        watch = muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(task_ids=["waits"]))
        await watch.read()

        muster.faults.diverge(data)
        why = await refusal(muster.tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=[spec_of("lost")])))
        _is_unavailable(why, "SHARD_UNAVAILABLE")
        for stream in (client, agent, elsewhere):
            _is_unavailable(await stream.end(), "SHARD_UNAVAILABLE")
        with pytest.raises(grpc.aio.AioRpcError, match="rebuilt"):
            await watch.read()

        await eventually(lambda: muster.shard.namespaces, within_s=PATIENT_S, message="the shard to be rebuilt")
        assert (await muster.get("t0")).state == COMPLETED
        names = [one.name for one in (await muster.admin.ListNamespaces(admin_pb2.ListNamespacesRequest())).namespaces]
        assert names == ["default", "other"]
        held = [{"task_id": one.task.task_id, "fence": one.fence} for one in assignments]
        agent = await muster.agent("worker", in_flight=held)
        verdicts = [one.verdict for one in agent.received[0].reconcile.attempts]
        assert verdicts == [agent_pb2.RECONCILE_VERDICT_DROP] + [agent_pb2.RECONCILE_VERDICT_KEEP] * 4
        client = await muster.session()
        await client.attach(*(f"t{n}" for n in range(5)))
        await agent.report(*(success(one.task.task_id, one.fence) for one in assignments[1:]))
        for number in range(5):
            assert (await client.result(f"t{number}")).state == COMPLETED
        muster.check()


async def test_while_a_shard_is_rebuilt_every_call_says_so_and_nothing_is_made_up():
    data = MemoryShard()
    async with hosted(data=data) as muster:
        await muster.submit("a")
        claimed = asyncio.Event()
        claim = MemoryShardStore.claim

        async def held_up(store, *asking):
            await claimed.wait()
            return await claim(store, *asking)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryShardStore, "claim", held_up)
            muster.faults.diverge(data)
            _is_unavailable(await refusal(muster.tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=[spec_of("b")]))), "SHARD_UNAVAILABLE")
            for call in (
                muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="phantom")),
                muster.admin.ListNamespaces(admin_pb2.ListNamespacesRequest()),
                muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id="a")),
                muster.tasks.Session(),
                muster.agents.Connect(),
            ):
                _is_unavailable(await refusal(call), "SHARD_UNAVAILABLE")
            claimed.set()
            await eventually(lambda: muster.shard.namespaces, message="the shard to be rebuilt")
        assert list(muster.shard.namespaces) == ["default"]
        await muster.is_alive()
    async with hosted(data=data) as muster:
        assert (await muster.get("a")).state == PENDING


async def test_a_cancel_whose_commit_was_lost_is_not_answered_as_done():
    """The look-up of the other ids must not outlive the commit: a rebuilt shard knows nothing of the cancel."""
    data = MemoryShard()
    async with hosted(data=data) as muster:
        await muster.submit("a")
        muster.faults.diverge(data)
        request = task_pb2.CancelTasksRequest(task_ids=["a", "nowhere"])
        _is_unavailable(await refusal(muster.tasks.CancelTasks(request)), "SHARD_UNAVAILABLE")
        await eventually(lambda: muster.shard.namespaces, within_s=PATIENT_S, message="the shard to be rebuilt")
        assert (await muster.get("a")).state == PENDING


async def test_a_fenced_coordinator_ends_its_streams_and_itself():
    data = MemoryShard()
    async with hosted(data=data) as muster:
        client, agent = await muster.session(), await muster.agent("worker")
        await client.submit(spec_of("a"), batch_id=1)
        await agent.assigned()
        async with hosted(data=data) as successor:
            assert (await successor.get("a")).agent_name == "worker"
            why = await refusal(muster.tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=[spec_of("b")])))
            _is_unavailable(why, "SHARD_MOVED")
            for stream in (client, agent):
                _is_unavailable(await stream.end(), "SHARD_MOVED")
            with pytest.raises(ShardLost):
                await muster.running.failed
            assert [one.verdict for one in await successor.submit("b")] == [1]
            successor.check()


async def test_commits_survive_faults_of_every_kind_at_any_moment(rng):
    """Whatever was acknowledged is in the journal, once, and a coordinator that starts from it agrees."""
    data = MemoryShard()
    async with hosted(data=data) as muster:
        agent, client = await muster.agent("worker", max_concurrent_tasks=100, ready=100), await muster.session()
        stop = asyncio.Event()

        async def meddle():
            while not stop.is_set():
                muster.faults.appends = rng.choice([Fault.NONE, Fault.NONE, Fault.NONE, Fault.BEFORE, Fault.AFTER])
                await asyncio.sleep(0.01)
            muster.faults.over()

        async def work():
            done, batch = 0, 0
            while done < 20:
                fresh = (await agent.assigned(done + 1))[done:]
                batch += 1
                await agent.report(*(success(one.task.task_id, one.fence) for one in fresh), batch_id=batch)
                done += len(fresh)

        meddling, working = asyncio.create_task(meddle()), asyncio.create_task(work())
        taken, number = [], 0
        while len(taken) < 20:
            number += 1
            ack = await client.submit(spec_of(f"t{number}"), batch_id=number, first_send=True)
            if not ack.exceptions:
                taken.append(f"t{number}")
        stop.set()
        await meddling
        await working
        for task_id in taken:
            assert (await client.result(task_id)).state == COMPLETED
        assert len(client.results()) == len(taken)
        muster.check()
    async with hosted(data=data) as muster:
        for task_id in taken:
            assert (await muster.get(task_id)).state == COMPLETED
        assert len((await muster.tasks.ListTasks(task_pb2.ListTasksRequest(page_size=1000))).tasks) == len(taken)


async def test_a_result_that_must_be_looked_up_is_answered_when_the_store_is_back():
    async with hosted() as muster:
        agent = await muster.agent("worker")
        muster.faults.reads = Fault.BEFORE
        asking = asyncio.create_task(agent.report(success("nobody-knows-it", 7)))
        await eventually(lambda: muster.faults.failed_reads, message="the look-up that fails")
        muster.faults.over()
        ack = await asking
        assert [one.verdict for one in ack.exceptions] == [agent_pb2.RESULT_VERDICT_UNKNOWN]


async def test_what_agents_report_in_an_outage_waits_with_them_once_there_is_no_more_room(monkeypatch):
    monkeypatch.setattr(commits, "MAX_WAITING_BYTES", 4 * 2**20)
    async with hosted() as muster:
        client = await muster.session()
        agent = await muster.agent("worker", max_concurrent_tasks=20, ready=20)
        ids = [f"t{number}" for number in range(20)]
        await client.submit(*(spec_of(task_id) for task_id in ids), batch_id=1)
        assignments = await agent.assigned(20)
        await _outage(muster, client)

        async def report():
            for number, assignment in enumerate(assignments):
                result = success(assignment.task.task_id, assignment.fence, bytes(2**20))
                await agent.send(agent_pb2.ConnectRequest(results=agent_pb2.ResultBatch(batch_id=number, results=[result])))

        reporting = asyncio.create_task(report())
        await eventually(muster.shard.commits.is_crowded, within_s=PATIENT_S, message="it to be full")
        assert len(muster.scheduler.state.tasks) > 12, "the others wait in the agent, and in the connection"
        muster.faults.over()
        for task_id in ids:
            assert (await client.result(task_id)).state == COMPLETED
        await reporting
        assert (agent.ended, client.ended) == (None, None)
        muster.check()
