"""What must hold of a scheduler between commands, whatever happened. For tests and for `muster admin check`; never on the hot path."""

from collections import Counter

from coordinator.core.breakers import OWN, SHUT, BreakerState
from coordinator.core.load_map import AgentStatus
from coordinator.core.model import WAITING, TaskState
from coordinator.core.pauses import end_of
from coordinator.core.policies import PolicyKind, PolicyName
from coordinator.core.pools import Limiter
from coordinator.core.scheduler import Scheduler
from coordinator.core.timing import NEVER_MS, queue_until_ms, until_ms


class InvariantBroken(AssertionError):
    """Something that must hold doesn't."""


def check(scheduler: Scheduler) -> None:
    """Raises InvariantBroken when state, queue and load map don't agree, or a guarantee doesn't hold."""
    state, load = scheduler.state, scheduler.load
    _hold(len(state.tasks) == len(state.by_number), "tasks by id and by number differ")
    _hold(sorted(state.by_number) == list(state.by_number), "tasks aren't in the order of their numbers")
    running = {number: agent for agent in load.agents.values() for number in agent.running}
    _hold(sum(len(agent.running) for agent in load.agents.values()) == len(running), "G3: a task runs on two agents")
    ready = {task.number for lane in scheduler.ready.lanes.values() for fifo in lane.fifos() for task in fifo}
    for lane in scheduler.ready.lanes.values():
        for fifo in lane.fifos():
            _hold(fifo.live == len({task.number for task in fifo}) == sum(1 for _ in fifo) > 0, f"lane {lane.needs} counts wrongly")
            _hold(all(task.spec.priority == fifo.priority for task in fifo), f"a task of lane {lane.needs} stands where its priority isn't")
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
    _hold(scheduler.expiries.keys() <= state.by_number.keys(), "a task that isn't live has a deadline")
    for task in state.tasks.values():
        _hold(bool(task.place) or task.number in scheduler.backoffs, f"{task} isn't ready, and waits for no date")
        if min(until_ms(task), queue_until_ms(task)) < NEVER_MS:
            _hold(task.number in scheduler.expiries, f"{task} has a deadline, and nobody will look at it")
    _hold(scheduler.unjournalled_acks.keys() <= running.keys(), "an attempt that is over waits to be acknowledged")
    _hold(state.bytes == sum(len(task.spec.request) for task in state.tasks.values()), "the bytes of live tasks are counted wrongly")
    _hold(state.retrying == sum(task.state is TaskState.RETRYING for task in state.tasks.values()), "RETRYING tasks are counted wrongly")
    _check_index(scheduler)
    _check_statistics(scheduler)
    _check_pauses(scheduler)
    _check_breakers(scheduler)
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
    _check_limits(scheduler)
    _check_webhooks(scheduler)


def _check_pauses(scheduler: Scheduler) -> None:
    """What is paused is found by nobody, all else by all that can take it, and who is cordoned takes nothing."""
    pauses, policies = scheduler.pauses, scheduler.state.policies
    for lane in scheduler.ready.lanes.values():
        _hold(bool(pauses.moves) or lane.parked == pauses.names(lane.task_type), f"lane {lane.needs} isn't as its pause is")
        finders = [] if lane.parked else [group.room_for(lane.needs) for group in scheduler.load.capable(lane.needs)]
        _hold(set(lane.rooms) == set(finders), f"lane {lane.needs} is found by {len(lane.rooms)} rooms, and should be by {len(finders)}")
    _hold(pauses.everything is policies.get(PolicyName(PolicyKind.PAUSE, "")), "the namespace's pause isn't its policy")
    ends = [end_ms for name, standing in policies.items() if name.kind is PolicyKind.PAUSE and (end_ms := end_of(standing))]
    _hold(not ends or (pauses.next_end_ms or NEVER_MS) <= min(ends), "a pause will not end")
    for agent in scheduler.load.agents.values():
        cordoned = PolicyName(PolicyKind.CORDON, agent.name) in policies
        _hold(agent.status is not (AgentStatus.CONNECTED if cordoned else AgentStatus.CORDONED), f"{agent} isn't as its cordon is")


def _check_breakers(scheduler: Scheduler) -> None:
    """Agents are as their breakers say, each breaker that isn't closed will be looked at, and it has one probe at most."""
    by_agent, load = scheduler.breakers.by_agent, scheduler.load
    for name, own in by_agent.items():
        agent = load.agents.get(name)
        _hold(bool(own), f"{name} has no breaker, and is kept")
        _hold(agent is None or not agent.session or agent.breakers is own, f"{agent} doesn't know its breakers")
        for key, breaker in own.items():
            _hold((breaker.agent, breaker.key) == (name, key), f"{breaker} isn't where it belongs")
            _hold(breaker.due_slot != 0, f"{breaker} will not be looked at again")
            _hold(breaker.probe is None or breaker.state is BreakerState.HALF_OPEN, f"{breaker} has a probe")
            if (probe := breaker.probe) is not None:
                _hold(agent is not None and agent.running.get(probe.task.number) is probe, f"{breaker} waits for a probe that nobody runs")
                _hold(key in (OWN, probe.task.spec.task_type), f"{breaker} waits for another type's probe")
    for agent in load.agents.values():
        breakers = agent.breakers or {}
        shut = {key: one.state is BreakerState.HALF_OPEN and one.probe is None for key, one in breakers.items() if one.state in SHUT}
        _hold(agent.shut == (not shut.pop(OWN, True)), f"{agent} isn't as its own breaker is")
        _hold(agent.guarded == shut, f"{agent} is kept from {agent.guarded}, and its breakers are {breakers}")
    for group in {agent.group: None for agent in load.agents.values() if agent.group is not None}:
        guarded = Counter(key for agent in group.agents.values() for key in agent.guarded if key in group.capabilities)
        _hold(guarded == group.guarded, f"a class counts {group.guarded}, and its agents are kept from {guarded}")
        for (task_type, slots), room in group.rooms.items():
            users = sum(room in lane.rooms for lane in load.lanes()) + (slots == 1 and task_type in guarded)
            _hold(room.users == users, f"room {task_type} for {slots} slots counts {room.users} users, and has {users}")
            _hold(users > 0 or room is group.plain, f"room {task_type} for {slots} slots has no users, and stays")


def _check_webhooks(scheduler: Scheduler) -> None:
    state = scheduler.state
    deliveries = state.deliveries
    hooks = {name.key: standing.policy for name, standing in state.policies.items() if name.kind is PolicyKind.WEBHOOK}
    _hold(hooks == state.hooks, "the webhooks of types and their policies differ")
    _hold(Counter(one.hook for one in deliveries.pending.values()) == Counter(deliveries.of_hook), "pending webhooks are counted wrongly")
    _hold(all(number == one.number for number, one in deliveries.pending.items()), "a webhook isn't filed under its number")
    _hold(not deliveries.pending.keys() & deliveries.given_up.keys(), "a webhook is pending and given up")
    _hold(max([0, *deliveries.pending, *deliveries.given_up]) < deliveries.next_number, "a webhook's number will be given out again")
    _hold(scheduler.next_delivery == deliveries.next_number, "a webhook is due, and nobody was told")


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


def _check_statistics(scheduler: Scheduler) -> None:
    """Each row counts the live tasks of its type and priority, and nothing less than none."""
    live: Counter[tuple[str, int]] = Counter()
    running: Counter[tuple[str, int]] = Counter()
    delayed: Counter[tuple[str, int]] = Counter()
    for task in scheduler.state.tasks.values():
        key = (task.spec.task_type, task.spec.priority)
        live[key] += 1
        running[key] += task.state is TaskState.RUNNING
        delayed[key] += task.number in scheduler.backoffs
    rows = {row.key: row for row in scheduler.statistics.rows()}
    _hold(live.keys() <= rows.keys(), "live tasks have no row")
    for key, row in rows.items():
        counted, there = (row.live(), row.running(), row.delayed), (live[key], running[key], delayed[key])
        _hold(counted == there, f"{key} counts live, running and delayed tasks as {counted}, and has {there}")


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


def _check_limits(scheduler: Scheduler) -> None:
    """What is counted under limits is what runs and waits, and each queue of limited tasks stands where agents find it."""
    limits, tasks = scheduler.limits, scheduler.state.tasks.values()
    for key, limiter in limits.keys.items():
        mine = [task for task in tasks if task.spec.scheduling.concurrency_key == key]
        running = {task.number for task in mine if task.state is TaskState.RUNNING}
        _hold(limiter.running.keys() == running, f"{running} of concurrency key {key} run, and it knows {limiter.running.keys()}")
        _hold(limiter.live == sum(task.cancel_reason is None for task in mine), f"concurrency key {key} counts live tasks wrongly")
        _hold(bool(mine), f"concurrency key {key} has no task any more")
    for task_type, limiter in limits.types.items():
        running = {task.number for task in tasks if task.spec.task_type == task_type and task.state is TaskState.RUNNING}
        _hold(limiter.running.keys() == running, f"{running} of type {task_type} run, and it knows {limiter.running.keys()}")
    everything: list[Limiter] = [*limits.keys.values(), *limits.types.values(), *limits.rate_keys.values(), *limits.type_rates.values()]
    waiting: Counter[Limiter] = Counter()
    for lane in scheduler.ready.lanes.values():
        _hold(lane.limited_type == (lane.task_type if limits.is_named(lane.task_type) else ""), f"lane {lane.needs} isn't as its type is")
        pool = lane.pool
        moving = bool(scheduler.pauses.moves)
        _hold(
            moving or pool is None or pool.rooms.keys() == lane.rooms.keys(),
            f"the limited tasks of lane {lane.needs} are where others look",
        )
        for fifo in lane.limited.values():
            group = fifo.group
            _hold(group is not None and (moving or group.stand.pool is pool), f"{fifo} isn't in its pool")
            if group is not None:
                _hold(group.stand.pool.groups[group.keys] is group, f"{fifo} isn't in a pool")
                _hold(fifo in group.queues and group in group.stand.groups and group.stand.limiter in group.limiters, f"{fifo} is lost")
                waiting.update(dict.fromkeys(group.limiters, fifo.live))
                _hold(all(limiter in everything for limiter in group.limiters), f"{group.keys} is held up by a limit of the past")
    for one in everything:
        _hold(one.waiting == waiting[one], f"{one.key} has {waiting[one]} waiting, and counts {one.waiting}")


def check_placed(scheduler: Scheduler) -> None:
    """Raises InvariantBroken when a ready task has a free, capable agent: holds after every `place` (no lost wake-up)."""
    if scheduler.pauses.moves:  # nothing is placed before a pause is through
        return
    for lane in scheduler.ready.lanes.values():
        if scheduler.pauses.of(lane.task_type) is not None:
            continue
        if not any(fifo.line not in scheduler.postponed and (fifo.group is None or fifo.group.blocker() is None) for fifo in lane.fifos()):
            continue
        for agent in scheduler.load.agents.values():
            if agent.group is not None and agent.group.can_take(lane.needs):
                room = agent.group.room_for(lane.needs)
                _hold(room is not None and not room.has_space(agent), f"{lane.needs} has ready tasks while {agent} is free")


def _hold(condition: bool, otherwise: str) -> None:  # noqa: FBT001
    if not condition:
        raise InvariantBroken(otherwise)
