"""Which agent gets a task, beyond the least loaded: the one that served its sticky key last, or the one that is kept for it.

A task that takes several slots waits until one agent has as many free at once. Light tasks behind it may take slots meanwhile, as they
come, which could go on for ever. So once the head of such a lane has become CRITICAL, by ageing or as it was submitted, and nothing goes
before it, one agent is kept for the lane: it finishes what it runs and takes nothing that needs fewer slots, until it has got such a task.
Without ageing only what is submitted as CRITICAL is looked after so.
"""

from collections.abc import Sequence

from coordinator.core.lazy_heap import Rank
from coordinator.core.line import Line
from coordinator.core.load_map import Agent, AgentStatus, Room
from coordinator.core.model import Priority
from coordinator.core.scheduler import Scheduler


def prefer(scheduler: Scheduler, lane: Line, sticky_key: str, least_loaded: Agent) -> Agent:
    """The agent for a task with a sticky key: the key's last one, unless it can't or is much busier than the least loaded."""
    sticky = scheduler.sticky
    agent = scheduler.load.agents.get(sticky.get(sticky_key, ""))
    if agent is None or agent is least_loaded or not _is_near(scheduler, lane, agent, least_loaded):
        agent = least_loaded
    sticky[sticky_key] = agent.name
    sticky.move_to_end(sticky_key)
    if len(sticky) > scheduler.settings.max_sticky_keys:
        sticky.popitem(last=False)
    return agent


def _is_near(scheduler: Scheduler, lane: Line, agent: Agent, least_loaded: Agent) -> bool:
    room = None if agent.group is None else agent.group.room_for(lane.needs)
    if room is None or room not in lane.rooms or not room.has_space(agent):
        return False
    slack = scheduler.settings.sticky_slack
    return agent.busy / agent.capacity <= least_loaded.busy / least_loaded.capacity + slack


def review(scheduler: Scheduler, freed: Sequence[Room]) -> None:
    """Keeps an agent for each lane of heavy tasks whose head is CRITICAL, and lets go of those that aren't needed any more.

    Args:
        scheduler: whose.
        freed: rooms that have got space: their agents are the ones to choose from.
    """
    for lane, kept in list(scheduler.reserved.items()):
        rank = lane.rank()
        needed = rank is not None and rank[0] == -Priority.CRITICAL
        if kept is not None and needed and kept.reserved and _could_take(kept, lane):
            continue
        if kept is not None:
            let_go(scheduler, kept)
        if rank is not None and needed:
            scheduler.reserved[lane] = _reserve(lane, rank, freed)
        else:
            del scheduler.reserved[lane]


def let_go(scheduler: Scheduler, agent: Agent) -> None:
    """The agent takes anything again."""
    agent.reserved = 0
    scheduler.freed(agent)


def _reserve(lane: Line, rank: Rank, freed: Sequence[Room]) -> Agent | None:
    """The least loaded agent of a class that has got space and whose next task by order is the lane's."""
    for room in freed:
        group = room.group
        agent = group.rooms.get((lane.needs.task_type, 1), group.plain).least_loaded()
        if agent is None or agent.reserved or not _could_take(agent, lane):
            continue
        rivals = (room.lanes.best() for room in group.rooms.values())  # types with a limit at the agent have rooms of their own
        if all(rank < (rival.rank() or rank) for rival in rivals if rival is not None and rival is not lane):
            agent.reserved = lane.slots
            group.touch(agent)
            return agent
    return None


def _could_take(agent: Agent, lane: Line) -> bool:
    """Whether the agent would take the lane's tasks, once it has finished what it runs."""
    group = agent.group
    return (
        agent.status is AgentStatus.CONNECTED
        and not agent.shut
        and agent.may_take(lane.needs.task_type)
        and group is not None
        and group.room_for(lane.needs) in lane.rooms
        and min(agent.capacity, agent.ready_limit) >= lane.slots
    )
