"""The guards of pauses and cordons."""

from tests.mutation_row import CORE, Mutation

PAUSES = CORE + "pauses.py"
LOAD_MAP = CORE + "load_map.py"
POOLS = CORE + "pools.py"

PAUSE_MUTATIONS = [
    Mutation("pause: of the namespace", CORE + "placement.py", "if scheduler.pauses.everything is not None:", "if False:"),
    Mutation("pause: of lanes that are there", PAUSES, "                    load.park(lane)\n", "                    pass\n"),
    Mutation("pause: of lanes that come", LOAD_MAP, "        if not self.is_paused(lane.task_type):\n", "        if True:\n"),
    Mutation(
        "pause: of agents that come",
        LOAD_MAP,
        "(lane, group.link(lane)) for lane in self.lanes_of(task_type) if not lane.parked and",
        "(lane, group.link(lane)) for lane in self.lanes_of(task_type) if",
    ),
    Mutation(
        "pause: of agents that go",
        LOAD_MAP,
        "(lane, group.unlink(lane)) for lane in self.lanes_of(task_type) if not lane.parked and",
        "(lane, group.unlink(lane)) for lane in self.lanes_of(task_type) if",
    ),
    Mutation("pause: a prefix", PAUSES, 'if pattern.endswith("*") else [pattern]', "if False else [pattern]"),
    Mutation("pause: a type's end is not another's", PAUSES, "        if pauses.names(task_type):\n", "        if standing is not None:\n"),
    Mutation(
        "pause: whoever has space looks again",
        PAUSES,
        "                    scheduler.awake.update(dict.fromkeys(load.unpark(lane)))",
        "                    load.unpark(lane)",
    ),
    Mutation("pause: nothing begins before it is through", CORE + "placement.py", "    if scheduler.pauses.moves:\n", "    if False:\n"),
    Mutation("pause: goes on with the next tick", CORE + "ticks.py", "        move(scheduler)\n", "        pass\n"),
    Mutation("pause: which follows at once", PAUSES, "return 0 if self.moves else self.next_end_ms", "return self.next_end_ms"),
    Mutation("pause: a step is bounded", PAUSES, "for _ in range(MAX_MOVED):", "for _ in range(10**9):"),
    Mutation("pause: a queue is a step", POOLS, "meet all of it at once\n            yield\n", "meet all of it at once\n"),
    Mutation("pause: what moved is put right", POOLS, "                home.rank()  # what", "                pass  # what"),
    Mutation(
        "pause: a queue on its way leaves where it is",
        POOLS,
        "            fifo.pool.forget(fifo, task)\n\n    def move",
        "            lane.pool.forget(fifo, task)\n\n    def move",
    ),
    Mutation("pause: a pool goes when nothing is on its way out", POOLS, "not pool.lanes and not pool.groups:", "not pool.lanes:"),
    Mutation(
        "pause: a lane that is gone isn't found", LOAD_MAP, "not lane.parked or lane not in", "not lane.parked or False and lane not in"
    ),
    Mutation("pause: nor one twice", LOAD_MAP, "if not lane.parked or lane not in", "if lane not in"),
    Mutation(
        "pause: likewise of the namespace", PAUSES, "            scheduler.awake.update(dict.fromkeys(load.rooms()))", "            pass"
    ),
    Mutation("pause: heavy lanes are looked after again", PAUSES, "if lane.slots > 1 and not lane.parked:", "if False:"),
    Mutation(
        "pause: likewise with limits",
        PAUSES,
        "scheduler.hurry(lane if lane.pool is None else lane.pool)",
        "scheduler.hurry(lane)",
    ),
    Mutation("pause: likewise in the namespace", PAUSES, "if isinstance(item, Line) and item.slots > 1:", "if False:"),
    Mutation("pause: what wakes in it is forgotten", PAUSES, "    scheduler.awake.clear()\n", "    pass\n"),
    Mutation(
        "pause: who is kept is let go",
        PAUSES,
        "for agent in [kept for kept in scheduler.reserved.values() if kept is not None]:",
        "for agent in ():",
    ),
    Mutation("pause: limited tasks are parked", PAUSES, "            yield from load.pools.follow(lanes)\n", ""),
    Mutation(
        "pause: a pool goes with most of its queues",
        CORE + "pools.py",
        "            if ahead <= 0:\n                return None\n",
        "            return None\n",
    ),
    Mutation("pause: the fewer queues move", CORE + "pools.py", "            if ahead <= 0:\n", "            if False:\n"),
    Mutation("pause: ends", CORE + "ticks.py", "        end_pauses(scheduler, now)", "        pass"),
    Mutation(
        "pause: is waited for",
        CORE + "scheduler.py",
        "self.limits.wheel.next_due(), self.pauses.due_ms()",
        "self.limits.wheel.next_due()",
    ),
    Mutation("pause: not early", PAUSES, "if end_ms <= date_ms)", "if True)"),
    Mutation("pause: an end that was taken back", PAUSES, "        self._ends.pop(name, None)\n", ""),
    Mutation(
        "pause: after the first end comes the next",
        PAUSES,
        "self.next_end_ms = min((end_ms for end_ms in self._ends.values() if end_ms > date_ms), default=None)",
        "self.next_end_ms = None",
    ),
    Mutation("pause: the earliest end first", PAUSES, "end_ms if self.next_end_ms is None else min(self.next_end_ms, end_ms)", "end_ms"),
    Mutation("pause: the last of several ends is told", PAUSES, 'key=lambda one: end_of(one) or float("inf")', "key=end_of"),
    Mutation(
        "pause: tasks say so",
        CORE + "explain.py",
        "    if (pause := scheduler.pauses.of(task.spec.task_type)) is not None:\n",
        "    if (pause := scheduler.pauses.everything) is not None:\n",
    ),
    Mutation("pause: tasks say so of the namespace", PAUSES, "            those.append(self.everything)\n", "            pass\n"),
    Mutation("cordon: nothing new", PAUSES, "            agent.status = AgentStatus.CORDONED\n", "            pass\n"),
    Mutation(
        "cordon: of an agent that comes",
        CORE + "sessions.py",
        "AgentStatus.CONNECTED if cordon_of(scheduler, said.name) is None else AgentStatus.CORDONED",
        "AgentStatus.CONNECTED",
    ),
    Mutation("cordon: what drains drains on", PAUSES, "        if agent.status is AgentStatus.CONNECTED:\n", "        if True:\n"),
    Mutation("cordon: likewise when it is lifted", PAUSES, "    elif agent.status is AgentStatus.CORDONED:\n", "    else:\n"),
    Mutation(
        "cordon: lifted, it looks again", PAUSES, "    scheduler.freed(agent)  # it has space again", "    pass  # it has space again"
    ),
    Mutation("pause: until it is through, that is why", CORE + "explain.py", "    if scheduler.pauses.moves:\n", "    if False:\n"),
    Mutation(
        "cordon: nobody counts it as full",
        CORE + "explain.py",
        "    count = statuses.pop(AgentStatus.CONNECTED, 0)\n",
        "    count = statuses.total()\n",
    ),
    Mutation("cordon: is told", CORE + "explain.py", "    elif agent.status is AgentStatus.CORDONED:\n", "    elif False:\n"),
]
