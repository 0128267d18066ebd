"""The guards of shared state's engine."""

from tests.mutation_row import Mutation

STATE = "coordinator/state/"

STATE_ENGINE_MUTATIONS = [
    # Writing.
    Mutation(
        "a call is repeated with its nonce",
        STATE + "writer.py",
        "nonce=nonce, limits=limits",
        "nonce=self._entropy.nonce(), limits=limits",
    ),
    Mutation(
        "nothing new is taken in an outage",
        STATE + "writer.py",
        "if self._outage.since_s is not None:",
        "if False:",
    ),
    Mutation("a queue is bounded", STATE + "writer.py", "if len(self._queue) >= MAX_QUEUED:", "if False:"),
    Mutation("bytes that wait are bounded", STATE + "writer.py", "if self._queued_bytes >= MAX_QUEUED_BYTES:", "if False:"),
    Mutation("a call is bounded in bytes", STATE + "writer.py", "if size and size + queued.size > MAX_CALL_BYTES:", "if False:"),
    Mutation("what may delete many ends its call", STATE + "writer.py", "if _may_delete_many(queued.command):", "if False:"),
    Mutation("a fenced writer stops", STATE + "writer.py", "if written.answer is WriteAnswer.FENCED:", "if False:"),
    Mutation("another incarnation is noticed", STATE + "writer.py", "if incarnation and written.incarnation != incarnation:", "if False:"),
    Mutation(
        "what was overtaken goes first again",
        STATE + "writer.py",
        "self._queue.extendleft(reversed(again))",
        "self._queue.extend(again)",
    ),
    Mutation(
        "what did too much together is asked again",
        STATE + "writer.py",
        "if verdict.outcome is Outcome.READ_TOO_LARGE and verdict.number < max_read_bytes:",
        "if False:",
    ),
    Mutation(
        "a store that hangs is out",
        STATE + "outages.py",
        "slow = loop.call_later(OUT_AFTER_S, self._begins,",
        "slow = loop.call_later(1_000_000, self._begins,",
    ),
    Mutation(
        "after an outage all is extended", STATE + "namespace.py", "        self._chores.extend()\n        self.lock", "        self.lock"
    ),
    Mutation(
        "what waits is refused at the end",
        STATE + "writer.py",
        "        waiting = [*self._under_way, *self._queue]\n",
        "        waiting = []\n",
    ),
    # Updates.
    Mutation("a write waits behind an update of its key", STATE + "writer.py", "if op.key in self.expected:", "if False:"),
    Mutation(
        "an update compares what it began with",
        STATE + "hot.py",
        "compares.append(Compare(update.key, CompareTarget.MOD_REVISION, before.mod_revision))",
        "pass",
    ),
    Mutation(
        "an update compares the value before it",
        STATE + "hot.py",
        'compares.append(Compare(update.key, CompareTarget.VALUE, value=before.value or b""))',
        "pass",
    ),
    Mutation("a large value isn't chained", STATE + "writer.py", "if not before.can_be_compared:", "if False:"),
    Mutation("a failure is told when it is durable", STATE + "hot.py", "case Outcome.DONE if self.failure:", "case Outcome.DONE if False:"),
    Mutation("a repetition is noticed", STATE + "hot.py", "if self.failure or written.version", "if False and written.version"),
    Mutation("a repetition is noticed by its revision", STATE + "hot.py", " or verdict.revision <= revision_before:", ":"),
    Mutation("an update keeps the key's end", STATE + "hot.py", "keeps_end=before.value is not None", "keeps_end=False"),
    Mutation("hot values are bounded", STATE + "hot.py", "while self._bytes > self._max_bytes:", "while False:"),
    Mutation("copies are bounded", STATE + "json_patch.py", "if self._copies < 0:", "if False:"),
    Mutation("operations are bounded", STATE + "json_patch.py", "if len(patch) > MAX_OPERATIONS:", "if False:"),
    Mutation("values are bounded", STATE + "updates.py", "if len(changed) > MAX_VALUE_BYTES:", "if False:"),
    Mutation("sums are exact or refused", STATE + "updates.py", "traps=[Inexact, Overflow, InvalidOperation]", "traps=[]"),
    Mutation("true is no number", STATE + "json_values.py", " and not isinstance(value, bool)", ""),
    # Reads.
    Mutation(
        "a read waits behind a write",
        STATE + "reads.py",
        "elif (behind := min(behind, self._writer.taken)) > self._writer.done:",
        "elif False:",
    ),
    Mutation(
        "one read that is too large is refused alone",
        STATE + "reads.py",
        "            elif number:  # the rest",
        "            elif False:  # the rest",
    ),
    # Locks.
    Mutation(
        "a grant is confirmed",
        STATE + "lock_waits.py",
        "                if not wait.asking:\n                    self._confirm(wait)\n",
        "",
    ),
    Mutation(
        "a grant that came while asking is confirmed",
        STATE + "lock_waits.py",
        "        if wait.granted and not (",
        "        if False and not (",
    ),
    Mutation(
        "a place is kept while somebody waits",
        STATE + "lock_waits.py",
        "        if not wait.asking:\n            self._ask(wait)\n",
        "        pass\n",
    ),
    Mutation(
        "a place isn't kept for whoever is gone",
        STATE + "lock_waits.py",
        "            if timer is not None:\n                timer.cancel()\n",
        "            pass\n",
    ),
    # Chores.
    Mutation("a takeover gives time again", STATE + "namespace.py", "if facts.next_due_ms is not None:", "if False:"),
    Mutation("a stall gives time again", STATE + "chores.py", "if late_s > STALLED_S:", "if False:"),
    Mutation("sweeps are spaced", STATE + "chores.py", "self._swept_s + SWEEP_SPACING_S - now_s, ", ""),
    Mutation("an expiry says until when", STATE + "chores.py", "ExpireDue(EXPIRE_LIMIT, self._now_ms())", "ExpireDue(EXPIRE_LIMIT, 2**52)"),
    Mutation("a compaction goes on", STATE + "chores.py", "            self._compact = verdict.more\n", "            pass\n"),
    # Watches.
    Mutation(
        "the reader hands out only what is above",
        STATE + "watches.py",
        "if (watch.position < revision or watch.taking == revision) and watch.wants(event):",
        "if watch.wants(event):",
    ),
    Mutation("a watch is told of its kinds alone", STATE + "watch.py", "self.kinds is None or event.kind in self.kinds", "True"),
    Mutation("the reader looks at the kind", STATE + "watches.py", ") and watch.wants(event):", "):"),
    Mutation("a watch joins where the reader is", STATE + "watches.py", "if watch.position < self._position:", "if False:"),
    Mutation("what was read apart isn't read twice", STATE + "watches.py", "if event.revision <= had:", "if False:"),
    Mutation("a slow watch is left behind", STATE + "watches.py", "if watch.taking != event.revision and watch.is_full():", "if False:"),
    Mutation(
        "a revision isn't torn in the reader",
        STATE + "watches.py",
        "if watch.taking != event.revision and watch.is_full():",
        "if watch.is_full():",
    ),
    Mutation(
        "a revision isn't torn in a page", STATE + "watches.py", "if event.revision != taking and watch.is_full():", "if watch.is_full():"
    ),
    Mutation("what is compacted is refused", STATE + "watches.py", "if lost or watch.position < page.compact_revision - 1:", "if False:"),
    Mutation("the future is refused", STATE + "watches.py", "if watch.position > revision:", "if False:"),
    Mutation("progress is told", STATE + "watches.py", "if watch.told < self.through(watch):", "if False:"),
    Mutation(
        "a watch that took all reads on",
        STATE + "watch_stream.py",
        "        elif watch.mode is Mode.BEHIND:\n            self._all.read_on(watch)\n",
        "",
    ),
    Mutation("previous values count", STATE + "watch_stream.py", "if events and size + added > room:", "if False:"),
]
