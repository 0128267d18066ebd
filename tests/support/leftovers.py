"""What a coordinator may keep of tasks, agents and clients that are gone: nothing."""

from tests.support.eventually import eventually
from tests.support.hosted import PATIENT_S, Hosted


async def nothing_stays(muster: Hosted) -> None:
    """Ends whatever is live, once all streams have ended, and raises when anything is kept of it."""
    await eventually(lambda: not (muster.shard.agent_sinks or muster.shard.client_sinks), within_s=PATIENT_S, message="the streams to end")
    scheduler, namespace = muster.scheduler, muster.namespace
    agents = [agent for agent in scheduler.load.agents.values() if agent.running]
    for agent in agents:  # what ran is given back by a process that comes again with nothing
        peer = await muster.agent(agent.name, ["nothing"], ready=None)
        await peer.leave()
    while scheduler.state.tasks:
        await muster.cancel(*list(scheduler.state.tasks)[:1000])
    await eventually(lambda: not (scheduler.state.ended or scheduler.load.agents), within_s=PATIENT_S, message="everything to end")
    await eventually(lambda: not (scheduler.watched_ids or scheduler.watch_all), within_s=PATIENT_S, message="the watches to end")
    muster.check()
    kept = (scheduler.state.by_number, scheduler.backoffs, scheduler.unjournalled_acks, scheduler.load.by_session)
    assert not any(kept), kept
    assert not any((scheduler.load._classes, scheduler.load._offering))
    assert all(lane.empty() for lane in scheduler.ready.lanes.values())
    assert not scheduler.reserved
    limits = scheduler.limits
    assert not any((limits.keys, limits.types, limits.rate_keys, limits.type_rates))
    assert scheduler.liveness.next_due() is None
    assert not any(scheduler.dates._slots.values())
    assert not namespace._waiting
    registry = namespace.watches
    assert (registry._by_content, registry._by_id, registry._announced) == (set(), {}, {})
    records = muster.shard.records
    assert not any((records._open, records._held, records._asked))
