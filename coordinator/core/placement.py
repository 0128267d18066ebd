"""Brings ready tasks and free slots together: the best ready task that anyone free can take, to the least loaded who can take it.

The only place that begins attempts. Neither the queue nor the agents are scanned: work is proportional to what is assigned, and to the
classes that have just got a slot or a task.
"""

import heapq

from coordinator.core.effects import Assign
from coordinator.core.events import Assigned
from coordinator.core.load_map import Agent, AgentClass
from coordinator.core.model import Attempt, Now, Task, next_fence
from coordinator.core.ready_queue import NO_HEAD, HeadKey, Lane
from coordinator.core.scheduler import Scheduler

Nominations = list[tuple[HeadKey, int, Lane]]


def place(scheduler: Scheduler, now: Now) -> None:
    """Assigns until no ready task has a free, capable agent."""
    nominations: Nominations = []  # a heap: lanes whose head somebody free can take
    for group in scheduler.awake:
        _nominate(group, nominations)
    scheduler.awake.clear()
    while nominations:
        key, serial, lane = heapq.heappop(nominations)
        head = lane.head()
        if head is None:
            continue
        if head[0] > key:  # nominated twice, and served since
            heapq.heappush(nominations, (head[0], serial, lane))
            continue
        groups = scheduler.load.capable(lane.task_type)
        _serve(scheduler, lane, groups, nominations[0][0] if nominations else NO_HEAD, now)
        for group in groups:
            _nominate(group, nominations)


def _nominate(group: AgentClass, nominations: Nominations) -> None:
    """Enters the best lane of a class that has a free slot."""
    if group.least_loaded() is not None and (best := group.lanes.best()) is not None:
        entry = (best[0], best[1].serial, best[1])
        if entry not in nominations[:1]:
            heapq.heappush(nominations, entry)


def _serve(scheduler: Scheduler, lane: Lane, groups: list[AgentClass], rival: HeadKey, now: Now) -> None:
    """Assigns a lane's tasks from its head on, while they go before the other lanes' heads and somebody is free."""
    for group in groups:
        if group.least_loaded() is not None:
            rival = min(rival, group.lanes.second(lane))
    while (agent := _pick(groups)) is not None:
        head = lane.head()
        if head is None or head[0] > rival:
            return
        lane.pop(head[1])
        _assign(scheduler, head[1], agent, now)


def _pick(groups: list[AgentClass]) -> Agent | None:
    """The least loaded agent with a free slot among the classes; the longest idle of equals."""
    if len(groups) == 1:
        group = groups[0]
        if len(group.agents) > 1:
            return group.least_loaded()
        (only,) = group.agents.values()  # nothing to compare: spares a tenth of an assignment's cost
        return only if only.free_slots() > 0 else None
    best: Agent | None = None
    for group in groups:
        agent = group.least_loaded()
        if agent is not None and (best is None or (agent.load, agent.idle_rank) < (best.load, best.idle_rank)):
            best = agent
    return best


def _assign(scheduler: Scheduler, task: Task, agent: Agent, now: Now) -> None:
    fence = next_fence(task.fence, scheduler.epoch)
    scheduler.apply(Assigned(task.number, agent.name, task.attempt + 1, fence), now)
    settings = scheduler.settings
    attempt = Attempt(task, now.mono_s, now.mono_s + settings.lease_s, now.mono_s + settings.ack_timeout_s)
    agent.running[task.number] = attempt
    scheduler.liveness.arm(attempt, attempt.due_s())
    if agent.group is not None:
        agent.group.touch(agent)
    scheduler.effects.append(Assign(agent.session, task.spec.task_id, task.spec.request, task.run, task.attempt, fence, task.checkpoint))
