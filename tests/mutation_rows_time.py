"""The guards of delays, deadlines and types' retry policies."""

from tests.mutation_row import CORE, Mutation

CONVERT = "coordinator/convert_timing.py"
CODEC = "coordinator/journal/codec.py"

TIME_MUTATIONS = [
    # Delays
    Mutation("time: a delayed task isn't ready", CORE + "model.py", "self.place = self.first_ready_ms = 0", "pass"),
    Mutation(
        "time: a delay", CORE + "model.py", "max(created_ms + self.delay_ms, self.not_before_ms)", "max(created_ms, self.not_before_ms)"
    ),
    Mutation("time: a date", CORE + "model.py", "max(created_ms + self.delay_ms, self.not_before_ms)", "created_ms + self.delay_ms"),
    Mutation(
        "time: whoever's date passes while nobody serves takes its place later",
        CORE + "scheduler.py",
        "if task.ready_at_ms > now.date_ms or not task.place:",
        "if task.ready_at_ms > now.date_ms:",
    ),
    Mutation("time: evolve: what is delayed isn't assigned", CORE + "evolve.py", " or not task.place:", ":"),
    Mutation("time: a place is taken once", CORE + "evolve.py", "task.state is TaskState.PENDING and not task.place)", "True)"),
    Mutation("time: a place behind all that are ready", CORE + "evolve.py", "task.place = state.next_number", "task.place = task.number"),
    Mutation(
        "time: a place of its own", CORE + "evolve.py", "    state.next_number += 1\n    task.first_ready_ms", "    task.first_ready_ms"
    ),
    Mutation("time: ages count from then", CORE + "evolve.py", "task.first_ready_ms = date_ms", "task.first_ready_ms = task.created_ms"),
    Mutation(
        "time: the earlier date first",
        CORE + "expiries.py",
        "sorted(tasks, key=lambda task: (task.ready_at_ms, task.number))",
        "list(tasks)",
    ),
    Mutation("time: so many a tick", CORE + "ticks.py", "at_most=MAX_DATES", "at_most=None"),
    Mutation(
        "time: of a full slot the first first",
        CORE + "timers.py",
        "list(islice(slot, at_most - len(due)))",
        "list(slot)[len(due) - at_most :]",
    ),
    Mutation(
        "time: rounded up", CONVERT, "return message.seconds * 1000 - -message.nanos // _NANOS_PER_MS", "return message.ToMilliseconds()"
    ),
    Mutation("time: at most a year away", CORE + "timing.py", "if ahead_ms > MAX_DELAY_MS:", "if False:"),
    Mutation(
        "time: a date that is one", CONVERT, "if not (FIRST_SECOND <= message.seconds", "if False and not (FIRST_SECOND <= message.seconds"
    ),
    # Deadlines
    Mutation(
        "time: a deadline after its beginning", CORE + "timing.py", "if ahead_ms and 0 < timing.deadline_ms <= ahead_ms:", "if False:"
    ),
    Mutation(
        "time: a known id is known whatever its dates are",
        CORE + "submits.py",
        "    known = state.find(spec.task_id)\n",
        "    if spec.timing is not UNTIMED and (wrong := misfit(spec.timing, now.date_ms)) is not None:\n        return wrong\n"
        "    known = state.find(spec.task_id)\n",
    ),
    Mutation(
        "time: deadlines are watched from the submit on",
        CORE + "submits.py",
        "    if spec.timing is not UNTIMED:\n        scheduler.watch_dates(task)\n",
        "",
    ),
    Mutation(
        "time: from its being ready on",
        CORE + "expiries.py",
        "        scheduler.watch_dates(task)\n        scheduler.enqueue",
        "        scheduler.enqueue",
    ),
    Mutation(
        "time: after a restart",
        CORE + "scheduler.py",
        "            if task.spec.timing is not UNTIMED:\n                self.watch_dates(task)\n",
        "",
    ),
    Mutation("time: the one after the other", CORE + "expiries.py", "        scheduler.watch_dates(task)  #", "        pass  #"),
    Mutation(
        "time: a queue deadline counts from its being ready",
        CORE + "timing.py",
        "return task.first_ready_ms + timeout_ms",
        "return task.created_ms + timeout_ms",
    ),
    Mutation("time: a queue deadline is met once", CORE + "timing.py", " or task.started_ms >= task.first_ready_ms:", ":"),
    Mutation(
        "time: a deadline", CORE + "timing.py", "return task.run_created_ms + deadline_ms if deadline_ms else NEVER_MS", "return NEVER_MS"
    ),
    Mutation(
        "time: the earlier one counts", CORE + "timing.py", "if queue_deadline_ms <= deadline_ms:", "if queue_deadline_ms < NEVER_MS:"
    ),
    Mutation(
        "time: nobody gets what is overdue",
        CORE + "placement.py",
        "if task.spec.timing is not UNTIMED and (failure := overdue(task, now)) is not None:",
        "if task.spec.timing is not UNTIMED and (failure := overdue(task, now)) is not None and False:",
    ),
    Mutation("time: so many a turn", CORE + "placement.py", "if turns.overdue == MAX_OVERDUE:", "if False:"),
    Mutation(
        "time: what was put off is gone on with",
        CORE + "ticks.py",
        "    for lane in scheduler.postponed:\n        scheduler.hurry(lane)\n",
        "",
    ),
    Mutation("time: what was put off is put off once", CORE + "ticks.py", "    scheduler.postponed.clear()\n", ""),
    Mutation("time: an overdue task leaves its lane or its backoff", CORE + "expiries.py", "    scheduler.forget_waiting(task)\n", ""),
    Mutation(
        "time: what has failed in this tick has no backoff",
        CORE + "ticks.py",
        "if scheduler.backoffs.get(task.number) is not backoff:",
        "if False:",
    ),
    Mutation("time: a stopped attempt's agent is told", CORE + "expiries.py", "if agent is not None and agent.session:", "if False:"),
    Mutation("time: no retry after the deadline", CORE + "timing.py", "if ready_at_ms < until_ms(task):", "if True:"),
    Mutation("time: what wasn't delivered has no backoff", CORE + "reports.py", " and cost is not Cost.DELIVERY and task", " and task"),
    Mutation(
        "time: a sentence is cut as it is read", CORE + "timing.py", "message=message[:MAX_FAILURE_MESSAGE], non", "message=message, non"
    ),
    Mutation("time: an agent learns how long it has", CORE + "placement.py", "else until_ms(task) - now.date_ms", "else 0"),
    Mutation(
        "time: what has ended is watched no longer",
        CORE + "scheduler.py",
        "            expiry = self.expiries.pop(task.number, None)\n",
        "            expiry = None\n",
    ),
    Mutation(
        "time: a slot that is empty goes",
        CORE + "timers.py",
        "                del self._slots[item.due_slot]\n",
        "                return\n",
    ),
    Mutation(
        "time: what is left of slots is swept", CORE + "timers.py", "if len(self._order) > 2 * len(self._slots) + _MIN_STALE:", "if False:"
    ),
    # What is kept
    Mutation(
        "time: a snapshot tells what still waits for its date",
        "coordinator/journal/snapshot_codec.py",
        "return not task.place and task.ready_at_ms",
        "return task.ready_at_ms",
    ),
    Mutation(
        "time: a snapshot tells since when a task has been ready",
        "coordinator/journal/snapshot_codec.py",
        "task.first_ready_ms = live.first_ready_ms or",
        "task.first_ready_ms =",
    ),
    # Types' retry policies
    Mutation(
        "time: a type's retry policy",
        "coordinator/rpc/client_session.py",
        "of_types.get(message.task_type, usual) if of_types else usual",
        "usual",
    ),
    Mutation("time: it is the policy that holds", CORE + "scheduler.py", "                self.type_retries.pop(name.key, None)\n", ""),
    Mutation("time: it is journalled with its tasks", CODEC, "if any(event.spec.retry.is_of_type for event in events):", "if False:"),
    Mutation("time: and with those that have one of their own", "coordinator/convert.py", "        is_of_type=defaults.is_of_type,\n", ""),
    Mutation(
        "time: to the millisecond, as the journal keeps it",
        "coordinator/convert_policies.py",
        "return message.ToMilliseconds() / 1000",
        "return message.seconds + message.nanos / 1e9",
    ),
]
