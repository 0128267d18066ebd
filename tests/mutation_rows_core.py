"""The guards of the core."""

from tests.mutation_row import CORE, Mutation

CORE_MUTATIONS = [
    # Who may report: G2.
    Mutation("judge: the fence", CORE + "reports.py", "task.fence == fence and task.state", "task.state"),
    Mutation("judge: the agent", CORE + "reports.py", " and task.agent == agent.name", ""),
    Mutation("judge: fence 0 is nobody's", CORE + "reports.py", "if fence and fence ==", "if fence =="),
    Mutation("a result given back is remembered", CORE + "evolve.py", "if event.cost is Cost.NONE:", "if False:"),
    Mutation("a reported failure is remembered", CORE + "evolve.py", "    if event.reported:\n", "    if False:\n"),
    Mutation(
        "fences grow within an epoch", CORE + "model.py", "max(last + 1, epoch << FENCES_PER_EPOCH_BITS)", "epoch << FENCES_PER_EPOCH_BITS"
    ),
    Mutation("fences grow with the epoch", CORE + "model.py", "max(last + 1, epoch << FENCES_PER_EPOCH_BITS)", "last + 1"),
    Mutation("evolve: a fence must grow", CORE + "evolve.py", " or event.fence <= task.fence", ""),
    Mutation("evolve: an id lives once", CORE + "evolve.py", " or spec.task_id in state.tasks", ""),
    # Capacity and capability: G3.
    Mutation("capacity", CORE + "load_map.py", "min(self.capacity, self.ready_limit) -", "self.ready_limit -"),
    Mutation("the ready level", CORE + "load_map.py", "min(self.capacity, self.ready_limit) -", "self.capacity -"),
    Mutation(
        "a draining agent gets nothing",
        CORE + "load_map.py",
        "if self.status is not AgentStatus.CONNECTED or self.shut:",
        "if self.status is AgentStatus.DISCONNECTED or self.shut:",
    ),
    Mutation(
        "capability", CORE + "load_map.py", "capability is None or capability.version < needs.min_version", "capability is None and False"
    ),
    Mutation("a version that is needed", CORE + "load_map.py", " or capability.version < needs.min_version", ""),
    Mutation("selectors", CORE + "load_map.py", "return all(each.matches(self.labels) for each in needs.selectors)", "return True"),
    Mutation("an agent's labels make its class", CORE + "load_map.py", ", tuple(sorted(agent.labels.items())))", ", ())"),
    Mutation(
        "an agent's limit for a type",
        CORE + "load_map.py",
        'task_type if self.capabilities[task_type].max_concurrent or task_type in self.guarded else ""',
        'task_type if task_type in self.guarded else ""',
    ),
    Mutation("a limit counts what ends", CORE + "load_map.py", "self.counts[spec.task_type] -= 1", "pass"),
    Mutation(
        "a limit counts what ran before", CORE + "load_map.py", "                self.counts[task_type] += 1\n", "                pass\n"
    ),
    Mutation("slots", CORE + "load_map.py", "agent.free_slots() >= self.slots >= agent.reserved", "agent.free_slots() > 0"),
    Mutation(
        "an agent is kept for a heavy task", CORE + "load_map.py", "plain = self.is_plain and not agent.reserved", "plain = self.is_plain"
    ),
    Mutation(
        "heavy tasks get an agent",
        CORE + "placement.py",
        "                    scheduler.reserved.setdefault(item, None)\n",
        "                    pass\n",
    ),
    Mutation("a kept agent is let go by its task", CORE + "placement.py", "        let_go(scheduler, agent)\n", "        pass\n"),
    Mutation(
        "a kept agent is let go when it isn't needed",
        CORE + "preferences.py",
        "            let_go(scheduler, kept)\n",
        "            pass\n",
    ),
    Mutation("only what is CRITICAL gets an agent", CORE + "preferences.py", "rank[0] == -Priority.CRITICAL", "True"),
    Mutation("only what is next gets an agent", CORE + "preferences.py", "rank < (rival.rank() or rank)", "True"),
    Mutation("a lost agent leaves its class", CORE + "sessions.py", "    scheduler.load.leave(agent)\n    if not", "    if not"),
    # Order: G4.
    Mutation("a rival lane goes first", CORE + "placement.py", "if rank > rival:", "if False:"),
    Mutation("the least loaded", CORE + "load_map.py", "load = agent.busy * LOAD_STEPS // agent.capacity if", "load = 0 if"),
    Mutation(
        "the longest idle over all classes",
        CORE + "load_map.py",
        "else self._places[agent]",
        "else (self._places[agent][0], 0)",
    ),
    Mutation("a returned task takes its place again", CORE + "ordered_tasks.py", "if number > self._last:", "if True:"),
    Mutation(
        "a new head is not concealed",
        CORE + "ordered_tasks.py",
        "        return self.front[0] is task\n",
        "        return len(self.front) == 1\n",
    ),
    Mutation("a better head is told to classes", CORE + "scheduler.py", "            lane.improved()\n", "            pass\n"),
    Mutation("every class that has looked is told", CORE + "lazy_heap.py", "for heap in watchers:", "for heap in list(watchers)[:1]:"),
    Mutation(
        "whoever has looked is told",
        CORE + "lazy_heap.py",
        "            item.watchers[self] = None\n            if rank is None:",
        "            if rank is None:",
    ),
    Mutation(
        "what was told is looked at first",
        CORE + "lazy_heap.py",
        "        self.put(item, FIRST)\n",
        "        self.put(item, self._entries[item][0] if item in self._entries else FIRST)\n",
    ),
    Mutation("a better head is placed", CORE + "scheduler.py", "improved()\n        self.awake[lane] = None\n", "improved()\n"),
    Mutation("a freed slot wakes its class", CORE + "scheduler.py", "                self.awake[room] = None\n", "                pass\n"),
    Mutation(
        "a freed slot is told to lanes",
        CORE + "scheduler.py",
        "                    room.improved()\n                self.awake",
        "                    pass\n                self.awake",
    ),
    Mutation("a new class hears of waiting tasks", CORE + "load_map.py", "            room.lanes.put(lane, rank)\n", "            pass\n"),
    Mutation("a linked lane tells its class", CORE + "load_map.py", "        lane.watchers[room.lanes] = None\n", "        pass\n"),
    Mutation("a new class is known to lanes", CORE + "load_map.py", "        lane.takers.tell(room)\n", "        pass\n"),
    Mutation("late turns are put right step by step", CORE + "lazy_heap.py", "if drifted >= MAX_DRIFTED and", "if False and"),
    Mutation("a room isn't asked for late turns", CORE + "placement.py", "max(bound, after)", "bound"),
    Mutation("what a class nominated is put back", CORE + "placement.py", "        turns.put_back()\n", "        pass\n"),
    Mutation(
        "a class asks on until its lanes can't be next",
        CORE + "placement.py",
        "        self.ask(room, room.lanes.found)",
        "        pass",
    ),
    Mutation("a cancelled task leaves the queue", CORE + "scheduler.py", "            self.ready.forget(task)\n", "            pass\n"),
    Mutation(
        "a cancelled task leaves its backoff",
        CORE + "scheduler.py",
        "self.backoffs.pop(task.number, None)",
        "self.backoffs.get(task.number)",
    ),
    Mutation("a new lane is entered by its rank", CORE + "load_map.py", "room.lanes.put(lane, rank)", "room.lanes.tell(lane)"),
    # Ageing and shares: G4.
    Mutation("ageing", CORE + "fifo.py", "steps = (self._looked_ms - task.first_ready_ms) // self.period_ms", "steps = 0"),
    Mutation(
        "at most CRITICAL",
        CORE + "fifo.py",
        "min(task.spec.priority + max(steps, 0), Priority.CRITICAL)",
        "task.spec.priority + max(steps, 0)",
    ),
    Mutation("an aged head is told", CORE + "ticks.py", "            scheduler.hurry(fifo.line)\n", "            pass\n"),
    Mutation("an aged queue is told to its lane", CORE + "ticks.py", "            fifo.improved()\n", "            pass\n"),
    Mutation("the timer is armed", CORE + "fifo.py", "ages.wheel.arm(self, due_ms)", "pass"),
    Mutation(
        "the timer is armed for a younger head",
        CORE + "fifo.py",
        "if not self.due_slot or due_ms < self._armed_ms:",
        "if not self.due_slot:",
    ),
    Mutation("a younger head is rated anew", CORE + "fifo.py", "head is not self.top and self.level != self.priority", "False"),
    Mutation(
        "an aged queue is of another race", CORE + "fifo.py", "if self.share is None or level != self.level:", "if self.share is None:"
    ),
    Mutation("a better queue is told to its lane", CORE + "ready_queue.py", "            fifo.improved()\n", "            pass\n"),
    Mutation("cost over weight", CORE + "fairness.py", "(cost - free) / self.weight", "(cost - free)"),
    Mutation("a served key moves on", CORE + "fairness.py", "        share.charge(cost)\n", "        pass\n"),
    Mutation("a key that was idle saves nothing up", CORE + "fairness.py", "share.virtual = max(share.virtual, start)", "pass"),
    Mutation(
        "a lane that was empty saves nothing up",
        CORE + "fairness.py",
        "max(share.virtual, lane.at[level], group.at[level])",
        "share.virtual",
    ),
    Mutation("nor does its class", CORE + "fairness.py", "lane.at[level], group.at[level])", "lane.at[level])"),
    Mutation(
        "nor the lane beside its class",
        CORE + "fairness.py",
        "share.virtual, lane.at[level], group.at[level])",
        "share.virtual, group.at[level])",
    ),
    Mutation(
        "a key is remembered while it pauses",
        CORE + "fairness.py",
        "            self._idle[share.key] = share\n",
        "            del self.shares[share.key]\n",
    ),
    Mutation(
        "a key that is gone is forgotten",
        CORE + "fairness.py",
        "if self._idle and next(iter(self._idle.values())).virtual <= start:",
        "if False:",
    ),
    Mutation("so many idle keys are remembered", CORE + "fairness.py", "if len(self._idle) > MAX_IDLE:", "if False:"),
    Mutation("a higher cost is charged", CORE + "fairness.py", "share.charge(actual - charge.cost)", "pass"),
    Mutation("a lower cost is given back", CORE + "fairness.py", "share.credit += charge.cost - actual", "pass"),
    Mutation(
        "a share that is charged is used",
        CORE + "fairness.py",
        "            share.users += 1\n        return Charge",
        "            pass\n        return Charge",
    ),
    Mutation("a sticky agent must have room", CORE + "preferences.py", " or not room.has_space(agent)", ""),
    Mutation("a sticky agent must be able", CORE + "preferences.py", "room is None or room not in lane.rooms or ", "room is None or "),
    Mutation(
        "a sticky agent must not be much busier", CORE + "preferences.py", "least_loaded.capacity + slack", "least_loaded.capacity + 10"
    ),
    Mutation(
        "so many sticky keys are remembered", CORE + "preferences.py", "if len(sticky) > scheduler.settings.max_sticky_keys:", "if False:"
    ),
    # Limits
    Mutation("so many of a key run", CORE + "limits.py", "len(self.running) < self.policy.max_running", "True"),
    Mutation("who runs is counted", CORE + "limits.py", "        self.running[task.number] = task\n", "        pass\n"),
    Mutation("who has ended isn't", CORE + "limits.py", "        limiter.running.pop(task.number, None)\n", "        pass\n"),
    Mutation(
        "who ran before a restart is counted",
        CORE + "scheduler.py",
        "                self.limits.began(task, now.date_ms)\n",
        "                pass\n",
    ),
    Mutation("a limit that opens is told", CORE + "pools.py", "                pool.best.tell(stand)\n", "                pass\n"),
    Mutation("each of a task's limits holds it up", CORE + "pools.py", "            if blocker is None:\n", "            if True:\n"),
    Mutation("a stand's own limit holds it up", CORE + "pools.py", "        if not self.limiter.open:\n", "        if False:\n"),
    Mutation(
        "a better head is told to a group's stand",
        CORE + "pools.py",
        "        super().improved()\n        self.stand.improved()\n",
        "        pass\n",
    ),
    Mutation(
        "limited tasks follow new rooms",
        CORE + "load_map.py",
        "            self.pools.regroup(linked, linked=True)\n",
        "            pass\n",
    ),
    Mutation(
        "limited tasks leave rooms that go",
        CORE + "load_map.py",
        "            self.pools.regroup(unlinked, linked=False)\n",
        "            pass\n",
    ),
    Mutation(
        "a limited type's tasks leave their lanes", CORE + "limits.py", "    waiting = load.pools.give_up(lanes)\n", "    waiting = []\n"
    ),
    Mutation(
        "a raised limit wakes",
        CORE + "limits.py",
        "            limiter.policy = self.key_policies.match(limiter.key)\n            if limiter.refresh():\n",
        "            limiter.policy = self.key_policies.match(limiter.key)\n            if limiter.refresh() and False:\n",
    ),
    Mutation(
        "an exact name wins", CORE + "patterns.py", "(value := values.get(key)) is not None:\n", "(value := values.get(key)) is None:\n"
    ),
    Mutation("the longest prefix wins", CORE + "patterns.py", "if count), reverse=True)", "if count))"),
    Mutation("a full key refuses", CORE + "submits.py", "scheduler.limits.when_full(key) is WhenFull.REJECT else", "False else"),
    Mutation("a full key cancels its oldest", CORE + "submits.py", "        if oldest is not None:\n", "        if False:\n"),
    Mutation(
        "full is as many live tasks as may run",
        CORE + "limits.py",
        "or live < policy.max_running else",
        "or live <= policy.max_running else",
    ),
    Mutation(
        "who is being cancelled doesn't count",
        CORE + "submits.py",
        "ended=False), now)\n        if task.spec.scheduling is not PLAIN:\n            scheduler.limits.left(task)\n",
        "ended=False), now)\n",
    ),
    Mutation("so many begin in a period", CORE + "limits.py", "self.used_at(date_ms) < rule.policy.count", "True"),
    Mutation("what begins is noted", CORE + "evolve.py", "        state.rates.note(task.spec, date_ms)\n", "        pass\n"),
    Mutation(
        "a start counts for a whole period", CORE + "rates.py", "if began_ms + policy.period_ms > date_ms:\n", "if began_ms >= date_ms:\n"
    ),
    Mutation("a start in a slot counts from its end", CORE + "rates.py", "* slot_ms + slot_ms - 1", "* slot_ms"),
    Mutation("a rate key's date is waited for", CORE + "limits.py", "            self._wheel.arm(self, free_ms)\n", "            pass\n"),
    Mutation(
        "what an outage held up counts from its end",
        CORE + "rates.py",
        "            self.starts = (*earlier, (max(",
        "            _ = (*earlier, (max(",
    ),
    Mutation(
        "a snapshot has what began",
        "coordinator/journal/snapshot_codec.py",
        "        self.message.rate_logs.append(log)\n",
        "        pass\n",
    ),
    # Submits: G6 and G7.
    Mutation("a known id is the same task", CORE + "submits.py", "    if known is not None:\n", "    if False:\n"),
    Mutation(
        "a task that has just ended is known",
        CORE + "state.py",
        "return self.tasks.get(task_id) or self.ended.get(task_id)",
        "return self.tasks.get(task_id)",
    ),
    Mutation("a full queue", CORE + "submits.py", "if len(state.tasks) >= scheduler.max_live_tasks:", "if False:"),
    Mutation("full memory", CORE + "submits.py", "> scheduler.max_live_bytes:", "> scheduler.max_live_bytes * 1000:"),
    # What ends a task
    Mutation("max_retries", CORE + "retries.py", "return task.retries >= task.spec.retry.max_retries", "return False"),
    Mutation("max_crashes", CORE + "retries.py", "return task.crashes >= task.spec.retry.max_crashes", "return False"),
    Mutation("max_deliveries", CORE + "retries.py", "return task.undelivered + 1 >= settings.max_deliveries", "return False"),
    Mutation("a cancelled task is not tried again", CORE + "retries.py", "if task.cancel_reason is not None:", "if False:"),
    Mutation("a failure for good", CORE + "retries.py", "if failure.non_retryable:", "if False:"),
    Mutation("retry_after", CORE + "retries.py", "failure.retry_after_s or 0.0", "0.0"),
    Mutation("backoff", CORE + "scheduler.py", "if task.ready_at_ms > now.date_ms or", "if"),
    Mutation("a returned attempt keeps its number", CORE + "evolve.py", "task.attempt -= 1", "task.attempt -= 0"),
    Mutation(
        "an undelivered attempt is given back, not failed",
        CORE + "reports.py",
        "undelivered = cost is Cost.DELIVERY and",
        "undelivered = False and",
    ),
    # Deadlines: G9.
    Mutation("lease", CORE + "model.py", "return min(self.lease_until_s, ", "return min(1e9, "),
    Mutation(
        "acknowledgement timeout",
        CORE + "model.py",
        "self.ack_until_s, self.run_until_s, self.progress_until_s)",
        "self.run_until_s, self.progress_until_s)",
    ),
    Mutation("run timeout", CORE + "model.py", "self.run_until_s, self.progress_until_s)", "self.progress_until_s)"),
    Mutation("progress timeout", CORE + "model.py", ", self.progress_until_s)", ")"),
    Mutation("progress must move", CORE + "reports.py", "sign.progress != attempt.progress", "True"),
    Mutation("grace", CORE + "sessions.py", "    scheduler.liveness.arm(agent, agent.grace_until_s)\n", ""),
    Mutation("grace: only what arrived is a crash", CORE + "ticks.py", "if attempt.has_arrived():", "if True:"),
    Mutation("hello: only what arrived is a crash", CORE + "sessions.py", "if attempt.has_arrived():", "if True:"),
    Mutation("hello: what it omits goes back", CORE + "sessions.py", "if number not in kept:", "if False:"),
    Mutation(
        "hello: what it lists has arrived",
        CORE + "sessions.py",
        "        acknowledge(scheduler, agent, task_id, fence, now)",
        "        pass",
    ),
    Mutation("any report shows that it arrived", CORE + "reports.py", "    _heard(scheduler, attempt, now)\n", ""),
    Mutation(
        "an attempt is given up once",
        CORE + "ticks.py",
        "if agent is None or agent.running.get(task.number) is not attempt:",
        "if False:",
    ),
    Mutation(
        "a takeover waits for one lease",
        CORE + "scheduler.py",
        "            self.policy_changed(name, now)\n        until_s = now.mono_s + self.settings.lease_s",
        "            self.policy_changed(name, now)\n        until_s = now.mono_s",
    ),
    Mutation("an outage extends leases", CORE + "scheduler.py", "attempt.lease_until_s = max(attempt.lease_until_s, until_s)", "pass"),
    Mutation(
        "policies hold after a restart",
        CORE + "scheduler.py",
        "            self.policy_changed(name, now)\n        until_s",
        "            pass\n        until_s",
    ),
    Mutation("limits: a pool that got queues is looked at", CORE + "pools.py", "        self._hurry(pool)", "        pass"),
    Mutation("timers are not early", CORE + "timers.py", "int(due / self._width) + 1", "int(due / self._width)"),
    # What is stored
    Mutation("a checkpoint is kept", CORE + "evolve.py", "task.checkpoint = event.data", "task.checkpoint = b''"),
    Mutation("output that is known is skipped", CORE + "reports.py", "fresh = data[max(0, task.chunk_end - offset) :]", "fresh = data"),
    Mutation("output is bounded", CORE + "reports.py", "fresh = fresh[: max(0, room)]", "pass"),
    Mutation(
        "codec: offsets count from the epoch",
        "coordinator/journal/codec.py",
        "yield Assigned(number, columns.agent_names[index], attempt, fence_base + offset)",
        "yield Assigned(number, columns.agent_names[index], attempt, offset)",
    ),
    # What a task remembers
    Mutation("history: the middle goes", CORE + "history.py", "if len(history) > FIRST_ENTRIES + LAST_ENTRIES:", "if False:"),
    Mutation("history: what goes is counted", CORE + "history.py", "omitted=gone.omitted + 1", "omitted=1"),
    Mutation(
        "history: checkpoints are counted",
        CORE + "history.py",
        "if last is not None and last.kind is HistoryKind",
        "if False and last.kind is HistoryKind",
    ),
    Mutation(
        "history: messages are shortened",
        CORE + "history.py",
        "return text if len(text) <= MAX_MESSAGE_CHARS else",
        "return text if True else",
    ),
    Mutation("history: no stack traces", CORE + "history.py", "(not failure.stack_trace and len(", "(len("),
    Mutation("history: what waits is nobody's", CORE + "history.py", "if task.state is not TaskState.RUNNING:", "if False:"),
    Mutation("history: a backoff is in the future", CORE + "history.py", "ready_at_ms if ready_at_ms > date_ms else 0", "ready_at_ms"),
    Mutation(
        "history: the last failure costs no retry",
        CORE + "evolve.py",
        "Cost.NONE if event.cost is Cost.RETRY and not retried else event.cost",
        "event.cost",
    ),
    Mutation(
        "history: a snapshot has it", "coordinator/journal/snapshot_codec.py", "    task.history = convert.history_in(live.history)\n", ""
    ),
    Mutation("history: a record's size counts it", CORE + "sizes.py", "for entry in history)", "for entry in ())"),
    # What live tasks are found by.
    Mutation(
        "a label that no task has any more goes",
        CORE + "task_index.py",
        "                if not numbers:\n                    del self.labels[label]\n",
        "",
    ),
    Mutation(
        "what runs again is no longer found as waiting",
        CORE + "placement.py",
        "        scheduler.index.tried.pop(task.number, None)\n",
        "        pass\n",
    ),
    Mutation("an ended task is found by nothing", CORE + "scheduler.py", "            index.remove(task)\n", "            pass\n"),
    Mutation(
        "a task that waits again is found so",
        CORE + "scheduler.py",
        "            self.index.tried[task.number] = None\n            self.enqueue",
        "            self.enqueue",
    ),
    Mutation("a recovered task is found", CORE + "scheduler.py", "            self.index.add(task)\n", ""),
    Mutation(
        "a block with a live task stays",
        CORE + "task_index.py",
        "if block == self._block or not self._state.by_number.keys().isdisjoint(_numbers_of(block)):",
        "if block == self._block:",
    ),
    Mutation(
        "blocks of ended tasks go",
        CORE + "task_index.py",
        "            if len(self._blocks) <= max(_MIN_BLOCKS, 2 * live):\n                return\n",
        "            return\n",
    ),
    Mutation(
        "a recovered state has its tasks by age",
        CORE + "snapshot.py",
        "    state.by_number = {number: state.by_number[number] for number in numbers}",
        "    state.by_number = dict(state.by_number)",
    ),
    # What is counted.
    Mutation(
        "a date that has come delays no more",
        CORE + "ticks.py",
        "        scheduler.statistics.delayed(task, -1)\n",
        "",
    ),
    Mutation(
        "a cancelled task delays no more",
        CORE + "scheduler.py",
        "            self.statistics.delayed(task, -1)\n",
        "",
    ),
    Mutation("an attempt that failed runs no more", CORE + "scheduler.py", "        self.statistics.failed_attempt(task)\n", ""),
    Mutation(
        "histories are bounded",
        CORE + "statistics.py",
        "            if len(self._histories) > MAX_HISTORIES:\n",
        "            if False:\n",
    ),
    Mutation(
        "a row of live tasks is kept",
        CORE + "statistics.py",
        "        return not self.happened() and not self._live and not self.delayed\n",
        "        return True\n",
    ),
    Mutation(
        "a row is forgotten in its own place only",
        CORE + "statistics.py",
        "        if rows is not None and rows[priority] is row:",
        "        if rows is not None:",
    ),
    Mutation(
        "a tick goes over so many rows",
        CORE + "statistics.py",
        "range(min(MAX_LOOKED_AT, len(self._left)))",
        "range(len(self._left))",
    ),
]
