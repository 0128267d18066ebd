"""The guards of circuit breakers."""

from tests.mutation_row import CORE, Mutation

BREAKERS = CORE + "breakers.py"
RESULTS = CORE + "breaker_results.py"
GUARDS = CORE + "guards.py"
LOAD_MAP = CORE + "load_map.py"
EXPLAIN = CORE + "explain.py"

BREAKER_MUTATIONS = [
    Mutation(
        "breaker: what is shut gets nothing",
        LOAD_MAP,
        "if self.status is not AgentStatus.CONNECTED or self.shut:",
        "if self.status is not AgentStatus.CONNECTED:",
    ),
    Mutation("breaker: nothing of its type", LOAD_MAP, " and agent.may_take(task_type)", ""),
    Mutation(
        "breaker: one probe", CORE + "placement.py", "    if agent.breakers is not None:\n        breakers.began(agent, attempt)\n", ""
    ),
    Mutation("breaker: one probe of its own", BREAKERS, "        agent.shut = not may_take\n", "        agent.shut = False\n"),
    Mutation(
        "breaker: failures count",
        CORE + "reports.py",
        "    if attempt is not None:\n        unsuccessful(",
        "    if False:\n        unsuccessful(",
    ),
    Mutation(
        "breaker: what is given up counts",
        CORE + "reports.py",
        "    if agent is not None and attempt is not None:\n        unsuccessful(scheduler, agent, attempt, failure, now)\n",
        "",
    ),
    Mutation(
        "breaker: successes count",
        CORE + "reports.py",
        "        if agent.breakers is not None and attempt is not None:\n",
        "        if False:\n",
    ),
    Mutation("breaker: non_retryable says nothing", BREAKERS, " and not failure.non_retryable", ""),
    Mutation("breaker: nor what was cancelled", BREAKERS, "task.cancel_reason is None and ", ""),
    Mutation("breaker: a task counts once", RESULTS, "number in self._known or ", ""),
    Mutation(
        "breaker: so many tasks are known",
        RESULTS,
        "            del self._known[next(iter(self._known))]\n",
        "            self._known.clear()\n",
    ),
    Mutation("breaker: one moment counts once", RESULTS, "            self._lost_s = now_s\n", "            pass\n"),
    Mutation("breaker: a success ends the row", RESULTS, "        self.in_a_row = 0\n        self.successes", "        self.successes"),
    Mutation("breaker: in a row", RESULTS, "if rules.consecutive_failures and self.in_a_row >= rules.consecutive_failures:", "if False:"),
    Mutation("breaker: a rate", RESULTS, "elif rules.failure_rate and total", "elif False and total"),
    Mutation("breaker: of enough results", RESULTS, " and total >= rules.min_results", ""),
    Mutation("breaker: what is old leaves the window", RESULTS, "            self.failures -= failures\n", ""),
    Mutation("breaker: old successes as well", RESULTS, "            self.successes -= successes\n", ""),
    Mutation("breaker: of two types", RESULTS, "        if self._of_agent and sum(", "        if False and sum("),
    Mutation("breaker: of two types within the window", RESULTS, "last_s > now_s - rules.window_s", "last_s > 0"),
    Mutation(
        "breaker: a type explains its failures",
        BREAKERS,
        "                own.results = Results(own.rules, of_agent=True)  # the type explains them\n",
        "                pass\n",
    ),
    Mutation(
        "breaker: and those after it opened",
        BREAKERS,
        "                own.results = Results(own.rules, of_agent=True)  # the type explains them\n            return\n",
        "                own.results = Results(own.rules, of_agent=True)\n",
    ),
    Mutation(
        "breaker: opens after its time",
        BREAKERS,
        "            _wait_for_probe(scheduler, breaker, now)\n        case BreakerState.TOLERATED",
        "            pass\n        case BreakerState.TOLERATED",
    ),
    Mutation("breaker: the tick looks", CORE + "ticks.py", "    end_waits(scheduler, now)\n", ""),
    Mutation(
        "breaker: is waited for",
        CORE + "scheduler.py",
        "(self.liveness.next_due(), self.breakers.wheel.next_due())",
        "(self.liveness.next_due(),)",
    ),
    Mutation("breaker: doubles", BREAKERS, "        breaker.failed_probes += 1\n", ""),
    Mutation("breaker: up to its bound", BREAKERS, "min(rules.open_s * 2**doublings, rules.max_open_s)", "rules.open_s * 2**doublings"),
    Mutation("breaker: jitter", BREAKERS, "(1 - JITTER * scheduler.jitter())", "1"),
    Mutation(
        "breaker: a success that isn't the probe's",
        BREAKERS,
        "        elif breaker.probe is attempt:\n            forget(",
        "        elif True:\n            forget(",
    ),
    Mutation(
        "breaker: a failure that isn't the probe's",
        BREAKERS,
        "    elif breaker.probe is attempt:\n        breaker.probe = None\n",
        "    elif breaker.state in SHUT:\n        breaker.probe = None\n",
    ),
    Mutation(
        "breaker: after a probe without a word, another",
        BREAKERS,
        "                _wait_for_probe(scheduler, breaker, now)\n        return\n",
        "                pass\n        return\n",
    ),
    Mutation("breaker: not all of a type", BREAKERS, "        if shut + 1 > most:\n", "        if False:\n"),
    Mutation("breaker: who takes nothing is no help", BREAKERS, "if agent.status is AgentStatus.CONNECTED]", "]"),
    Mutation(
        "breaker: tolerated for a while",
        BREAKERS,
        "        case BreakerState.TOLERATED:\n            forget(scheduler, breaker)\n",
        "        case BreakerState.TOLERATED:\n            pass\n",
    ),
    Mutation("breaker: outlives a session", BREAKERS, "    agent.breakers = scheduler.breakers.by_agent.get(agent.name)\n", "    return\n"),
    Mutation(
        "breaker: of whoever never comes back is forgotten",
        BREAKERS,
        "            forget(scheduler, breaker)  # it may never come back\n",
        "            _arm(scheduler, breaker, breaker.rules.max_open_s, now)\n",
    ),
    Mutation("breaker: what is old is forgotten", BREAKERS, "breaker.results.are_old(now.mono_s) or ", ""),
    Mutation(
        "breaker: closed, it looks again",
        BREAKERS,
        "        agent.shut = False\n    scheduler.freed(agent)\n",
        "        agent.shut = False\n",
    ),
    Mutation(
        "breaker: half-open, it looks again",
        BREAKERS,
        "        _let_through(agent, breaker.key, may_take=True)\n        scheduler.freed(agent)\n",
        "        _let_through(agent, breaker.key, may_take=True)\n",
    ),
    Mutation(
        "breaker: open, others look again",
        BREAKERS,
        "scheduler.awake.update(dict.fromkeys(guard(scheduler.load, agent, breaker.key)))",
        "guard(scheduler.load, agent, breaker.key)",
    ),
    Mutation("breaker: who is kept is let go", CORE + "preferences.py", "        and agent.may_take(lane.needs.task_type)\n", ""),
    Mutation("breaker: likewise for its own", CORE + "preferences.py", "        and not agent.shut\n", ""),
    Mutation(
        "breaker: who could be kept is asked",
        CORE + "preferences.py",
        "group.rooms.get((lane.needs.task_type, 1), group.plain)",
        "group.plain",
    ),
    Mutation(
        "breaker: lanes go to a room of their own",
        GUARDS,
        "moves = before == 0 or after == 0",
        "moves = False",
    ),
    Mutation("breaker: not those that are paused", GUARDS, "if not lane.parked and group.can_take", "if group.can_take"),
    Mutation("breaker: limited tasks go with them", GUARDS, "        for _ in load.pools.follow(lanes):\n            pass\n", ""),
    Mutation("breaker: whoever joins is counted", LOAD_MAP, "            count_guards(self, group, agent.guarded.keys(), 1)\n", ""),
    Mutation(
        "breaker: whoever leaves as well",
        LOAD_MAP,
        "            count_guards(self, group, agent.guarded.keys(), -1)\n",
        "            pass\n",
    ),
    Mutation("breaker: policies", CORE + "scheduler.py", "                follow_breakers(self, name)\n", "                pass\n"),
    Mutation("breaker: the namespace's policy", BREAKERS, "            self._all_types = policy\n", "            pass\n"),
    Mutation("breaker: other rules count anew", BREAKERS, "if rules.never_open() or breaker.state not in SHUT:", "if rules.never_open():"),
    Mutation("breaker: off closes", BREAKERS, "if rules.never_open() or breaker.state not in SHUT:", "if breaker.state not in SHUT:"),
    Mutation(
        "breaker: off counts nothing",
        BREAKERS,
        "        if rules.never_open():\n            if not own:",
        "        if False:\n            if not own:",
    ),
    Mutation("breaker: tasks say so", EXPLAIN, "    if len(shut) == len(able):\n", "    if False:\n"),
    Mutation(
        "breaker: agents say so",
        EXPLAIN,
        "    reasons += [(RuledOut.BREAKER_OPEN, told(breaker)) for breaker in in_the_way(agent, needs.task_type)]\n",
        "",
    ),
    Mutation("breaker: full agents are those without one", EXPLAIN, "    count -= len(shut)\n", ""),
    Mutation(
        "breaker: a type that fails everywhere",
        EXPLAIN,
        "    if count := fails_everywhere(scheduler, needs.task_type):\n",
        "    if count := 0:\n",
    ),
    Mutation("breaker: an operator closes those that were meant", BREAKERS, " if not task_type or breaker.key == task_type]", "]"),
    Mutation(
        "breaker: every type of an agent keeps somebody", BREAKERS, "        if groups in passed and not", "        if passed and not"
    ),
]
