"""Thousands of tasks, with clients, watchers and agents coming and going: everything they took up is free again."""

import asyncio
import contextlib
import gc

import grpc
from muster.v1 import agent_pb2, common_pb2, task_pb2

from coordinator.core.model import Task
from tests.support.eventually import eventually
from tests.support.hosted import failure, spec_of, success
from tests.support.leftovers import nothing_stays

ROUNDS, PER_ROUND = 10, 500


async def _work(agent, rng):
    """Runs what it is sent: most tasks succeed, some fail, emit, or are given back."""
    seen = batch = 0
    while agent.ended is None:
        fresh = agent.assignments()[seen:]
        seen += len(fresh)
        if not fresh:
            await asyncio.sleep(0.001)
            continue
        batch += 1
        message = agent_pb2.ConnectRequest(results=agent_pb2.ResultBatch(batch_id=batch))
        for one in fresh:
            task_id, fence = one.task.task_id, one.fence
            message.chunks.add(task_id=task_id, fence=fence, data=b"partial")
            match rng.randrange(8):
                case 0:
                    result = failure(task_id, fence, message="no", non_retryable=True)
                case 1:
                    message.checkpoints.add(task_id=task_id, fence=fence, sequence=1, data=b"saved")
                    returned = common_pb2.Outcome(returned=common_pb2.Returned(reason="drain"))
                    result = agent_pb2.AttemptResult(task_id=task_id, fence=fence, outcome=returned)
                case _:
                    result = success(task_id, fence)
            message.results.results.append(result)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):  # it left
            await agent.send(message)


async def test_everything_is_free_again(muster, rng):
    await muster.is_alive()
    await asyncio.sleep(0)
    tasks_before = len(asyncio.all_tasks())
    for number in range(ROUNDS):
        ids = [f"r{number}-{n}" for n in range(PER_ROUND)]
        agents = [await muster.agent(f"a{n}-{number}", ["work", f"w{number}"], ready=50, max_concurrent_tasks=50) for n in range(3)]
        working = [asyncio.create_task(_work(agent, rng)) for agent in agents]
        client, leaver, other = await muster.session(), await muster.session(), await muster.session()
        watch = muster.tasks.WatchTasks(task_pb2.WatchTasksRequest(filter=f"task_type = w{number}", include_chunks=True))
        half = PER_ROUND // 2
        await client.submit(*(spec_of(one, f"w{number}") for one in ids[:half]), batch_id=1, first_send=True)
        await leaver.submit(*(spec_of(one) for one in ids[half:]), batch_id=1)
        await other.attach(*ids, "nowhere")
        await muster.cancel(*ids[::50])
        await leaver.leave()  # with results due
        await agents[0].leave()  # with tasks running
        back = await muster.agent(f"a0-{number}", ["work", f"w{number}"], ready=50, max_concurrent_tasks=50)
        working.append(asyncio.create_task(_work(back, rng)))
        await eventually(lambda ids=ids, other=other: len(other.results()) == len(ids) + 1, within_s=30, message="all results")
        assert len({result.task_id for result in other.results()}) == PER_ROUND + 1
        watch.cancel()
        for peer in (client, other, *agents[1:], back):
            await peer.leave()
        await asyncio.gather(*working)
    await nothing_stays(muster)
    scheduler = muster.scheduler
    assert scheduler.totals.submitted == ROUNDS * PER_ROUND + 1
    assert scheduler.totals.completed + scheduler.totals.failed + scheduler.totals.cancelled == scheduler.totals.submitted
    assert len(scheduler.ready.lanes) <= 64
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before, message="the coordinator's tasks to end")
    await eventually(muster.shard.commits.is_empty, message="the journal to rest")
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Task)]
