"""What must hold of a scheduler between commands, whatever happened. For tests and for `muster admin check`; never on the hot path."""

from collections import Counter

from coordinator.core.load_map import AgentStatus
from coordinator.core.model import WAITING, TaskState
from coordinator.core.scheduler import Scheduler


class InvariantBroken(AssertionError):
    """Something that must hold doesn't."""


def check(scheduler: Scheduler) -> None:
    """Raises InvariantBroken when state, queue and load map don't agree, or a guarantee doesn't hold."""
    state, load = scheduler.state, scheduler.load
    _hold(len(state.tasks) == len(state.by_number), "tasks by id and by number differ")
    running = {number: agent for agent in load.agents.values() for number in agent.running}
    _hold(sum(len(agent.running) for agent in load.agents.values()) == len(running), "G3: a task runs on two agents")
    ready = {task.number for lane in scheduler.ready.lanes.values() for fifo in lane.fifos() for task in fifo}
    for lane in scheduler.ready.lanes.values():
        for fifo in lane.fifos():
            _hold(fifo.live == sum(1 for _ in fifo) > 0, f"lane {lane.needs} counts wrongly")
    for task in state.tasks.values():
        _hold(state.by_number.get(task.number) is task, f"{task} isn't filed under its number")
        if task.state is TaskState.RUNNING:
            agent = running.get(task.number)
            _hold(agent is not None and agent.name == task.agent, f"G3: {task} runs on {task.agent}, the load map says {agent}")
            _hold(task.number not in ready and task.number not in scheduler.backoffs, f"{task} runs and waits")
        else:
            _hold(task.state in WAITING, f"{task} is live and has ended")
            _hold((task.number in ready) != (task.number in scheduler.backoffs), f"{task} must wait in a lane or for a date, and not both")
            _hold(task.number not in running, f"{task} waits and runs")
        _hold(task.retries <= task.spec.retry.max_retries, f"{task} has used too many retries")
        _hold(task.crashes <= task.spec.retry.max_crashes, f"{task} has crashed too often")
    _hold(running.keys() <= state.by_number.keys(), "the load map has a task that isn't live")
    _hold(scheduler.backoffs.keys() <= state.by_number.keys(), "a task that isn't live waits for a date")
    _hold(scheduler.unjournalled_acks.keys() <= running.keys(), "an attempt that is over waits to be acknowledged")
    _hold(state.bytes == sum(len(task.spec.request) for task in state.tasks.values()), "the bytes of live tasks are counted wrongly")
    _hold(state.retrying == sum(task.state is TaskState.RETRYING for task in state.tasks.values()), "RETRYING tasks are counted wrongly")
    _check_index(scheduler)
    for task in state.ended.values():
        _hold(task.spec.task_id not in state.tasks, f"{task} is both live and ended")
    for agent in load.agents.values():
        connected = agent.status is not AgentStatus.DISCONNECTED
        _hold(bool(agent.session) == connected, f"{agent} has a session and isn't connected, or the reverse")
        _hold((load.by_session.get(agent.session) is agent) == connected, f"{agent} isn't filed under its session")
        _hold((agent.group is not None) == connected, f"{agent} is in a class and isn't connected, or the reverse")
        _hold(not agent.reserved or agent in scheduler.reserved.values(), f"{agent} is kept for {agent.reserved} slots, and nobody knows")
        slots = [attempt.task.spec.scheduling.slots for attempt in agent.running.values()]
        _hold(agent.busy == sum(slots), f"{agent} runs {slots}")
        for task_type, number in agent.counts.items():
            _hold(
                number == sum(one.task.spec.task_type == task_type for one in agent.running.values()), f"{agent} counts {task_type} wrongly"
            )
    _check_shares(scheduler)


def _check_index(scheduler: Scheduler) -> None:
    """Whatever is live is found by all that it has, and nothing else is."""
    index, tasks = scheduler.index, scheduler.state.tasks.values()
    for task in tasks:
        _hold(index.knows(task), f"{task} isn't found by its type, its labels or its parent")
    labelled = Counter(label for task in tasks for label in task.spec.labels)
    _hold(labelled == {label: len(numbers) for label, numbers in index.labels.items()}, "a label finds what isn't live")
    children = Counter(task.spec.parent for task in tasks if task.spec.parent)
    _hold(children == {parent: len(numbers) for parent, numbers in index.parents.items()}, "a parent finds what isn't live")
    tried = {task.number for task in tasks if task.state in WAITING and task.agent}
    _hold(tried == index.tried.keys(), "what waits and had an attempt isn't what is found as such")


def _check_shares(scheduler: Scheduler) -> None:
    """A key's share is there exactly as long as something of it waits or runs, or it is remembered."""
    users: Counter[tuple[int, str]] = Counter()
    for lane in scheduler.ready.lanes.values():
        users.update((fifo.level, fifo.key) for fifo in lane.fifos() if fifo.key)
    for agent in scheduler.load.agents.values():
        charges = [attempt.charge for attempt in agent.running.values() if attempt.charge is not None]
        users.update((charge.share.race.level, charge.share.key) for charge in charges if charge.share.key)
    for level, race in scheduler.fairness.races.items():
        for key, share in race.shares.items():
            _hold(share.users == users.pop((level, key), 0), f"the share of {key} at {level} counts {share.users} users wrongly")
    _hold(not users, f"keys without a share: {users}")


def check_placed(scheduler: Scheduler) -> None:
    """Raises InvariantBroken when a ready task has a free, capable agent: holds after every `place` (no lost wake-up)."""
    for lane in scheduler.ready.lanes.values():
        if lane.empty():
            continue
        for agent in scheduler.load.agents.values():
            if agent.group is not None and agent.group.can_take(lane.needs):
                room = agent.group.room_for(lane.needs)
                _hold(room is not None and not room.has_space(agent), f"{lane.needs} has ready tasks while {agent} is free")


def _hold(condition: bool, otherwise: str) -> None:  # noqa: FBT001
    if not condition:
        raise InvariantBroken(otherwise)
