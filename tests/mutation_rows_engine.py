"""The guards of the engine, of snapshots and of the store in memory."""

from tests.mutation_row import CORE, ENGINE, Mutation

_APPEND = (
    "            if commit.events:\n                await self._append(commit)\n            elif self.ownership.is_doubtful():\n"
    "                await self._confirm(commit.date_ms)\n"
    "            while self.ownership.is_over():  # it was durable in time, and somebody else may have decided something since\n"
    "                await self._confirm(commit.date_ms)\n"
    "            self.commits.written()\n"
)
_RELEASE = "            self._releaser.release(commit)\n"

ENGINE_MUTATIONS = [
    # The engine: G1 and G8.
    Mutation(
        "effects wait for the append",
        ENGINE + "shard.py",
        _APPEND + _RELEASE,
        _RELEASE + _APPEND,
    ),
    Mutation(
        "what an outage held up is told to limits",
        ENGINE + "shard.py",
        "            namespace.scheduler.limits.postpone(since_ms, now.date_ms)\n",
        "            pass\n",
    ),
    Mutation(
        "answers wait for the append", ENGINE + "shard.py", "        self.commits.last.answers.append(answer)\n", "        answer()\n"
    ),
    Mutation(
        "a refused append ends the shard",
        ENGINE + "store_calls.py",
        '                raise ShardLost("the shard was taken over by another coordinator")\n',
        "                return appended.date_ms, asked_s\n",
    ),
    Mutation(
        "an outage repeats the same commit",
        ENGINE + "store_calls.py",
        "            retry_s = min(2 * retry_s, LAST_RETRY_S)\n            continue\n",
        "            return 0, asked_s\n",
    ),
    Mutation(
        "no deadline fires in an outage", ENGINE + "shard.py", "if self.outage_since_s is None and not stalled_s:", "if not stalled_s:"
    ),
    Mutation(
        "no spinning on deadlines in an outage",
        ENGINE + "shard.py",
        "in self.namespaces.values() if self.outage_since_s is None else ():",
        "in self.namespaces.values():",
    ),
    Mutation("no spinning on dates", ENGINE + "shard.py", "max(wait_s, MIN_TICK_S)", "max(wait_s, 0.0)"),
    Mutation(
        "decisions on a lost shard are refused",
        ENGINE + "shard.py",
        "if self.namespaces.get(namespace.name) is not namespace:",
        "if False:",
    ),
    Mutation(
        "ids sent again are looked up", ENGINE + "intake.py", "if isinstance(spec, Spec) and spec.task_id not in state.tasks]", "if False]"
    ),
    Mutation(
        "a commit is bounded in bytes",
        ENGINE + "commits.py",
        "if self.last.size + size > MAX_COMMIT_BYTES or",
        "if False or",
    ),
    Mutation("a commit is bounded in events", ENGINE + "commits.py", " or len(self.last.events) >= MAX_COMMIT_EVENTS:", ":"),
    Mutation("one command's decisions are bounded", ENGINE + "commits.py", "        if size > MAX_COMMIT_BYTES:\n", "        if False:\n"),
    Mutation(
        "an answer goes with what it answers",
        ENGINE + "commits.py",
        "full.answers[: full.settled], full.answers[full.settled :]",
        "full.answers, []",
    ),
    Mutation(
        "an end comes with its record", ENGINE + "commits.py", "stop = ends[effect.task.number] + 1", "stop = ends[effect.task.number]"
    ),
    Mutation(
        "a checkpoint's size counts", CORE + "reports.py", "scheduler.apply_sized(CheckpointStored", "scheduler.apply(CheckpointStored"
    ),
    Mutation("a record's size counts", CORE + "scheduler.py", "        self.bytes += size_of_record(task)\n", ""),
    Mutation(
        "no answer before the store was asked",
        ENGINE + "shard.py",
        "            elif self.ownership.is_doubtful():\n                await self._confirm(commit.date_ms)\n",
        "",
    ),
    Mutation("commits written make room", ENGINE + "commits.py", "            self._size -= self.writing.size\n", ""),
    Mutation(
        "all that waits is failed", ENGINE + "commits.py", "in (self.writing, *self._full, self.last):", "in (self.writing, self.last):"
    ),
    Mutation(
        "what was read ahead is gone on from only if the journal does",
        ENGINE + "recovery.py",
        "    return await store.read(after=ahead.sequence - 1, limit=1) == [(ahead.sequence, ahead.last)]\n",
        "    return True\n",
    ),
    Mutation(
        "nothing is read ahead of the head",
        ENGINE + "recovery.py",
        "    if not ahead.last or ahead.sequence > claim.sequence:\n",
        "    if not ahead.last:\n",
    ),
    Mutation(
        "nobody reads what is being given up", ENGINE + "shard.py", "                self.serving = False  # before anybody else can\n", ""
    ),
    Mutation(
        "nothing is released once the lease is over",
        ENGINE + "shard.py",
        "            while self.ownership.is_over():",
        "            while False:",
    ),
    Mutation(
        "the lease is kept while a shard is recovered",
        ENGINE + "store_calls.py",
        "            ownership.confirmed(asked_s)\n",
        "            return\n",
    ),
    Mutation(
        "what was decided is written before the shard is handed over",
        ENGINE + "shard.py",
        "        self._offer, self._last = (offer_to, offer_ms), self.commits.last\n        self._wake.set()\n",
        "        self._offer, self._last = (offer_to, offer_ms), self.commits.writing or self.commits.last\n        self._wake.set()\n",
    ),
    Mutation("an owner without a lease is suspended", ENGINE + "shard.py", " or self.ownership.is_over()\n", "\n"),
    Mutation(
        "a shard at rest asks whether it is owned",
        ENGINE + "shard.py",
        "        if (self.namespaces or self.ownership.lease_s) and self.ownership.is_doubtful():\n            self._wake.set()\n",
        "",
    ),
    Mutation(
        "no read from a past too long ago",
        ENGINE + "shard.py",
        "if self.commits.is_empty() and not self.ownership.is_doubtful():",
        "if self.commits.is_empty():",
    ),
    Mutation("an append says who owns the shard", ENGINE + "shard.py", "        self.ownership.confirmed(asked_s)\n", ""),
    Mutation(
        "a shard without namespaces asks nothing",
        ENGINE + "shard.py",
        "        if (self.namespaces or self.ownership.lease_s) and self.ownership.is_doubtful():\n            self._wake",
        "        if self.ownership.is_doubtful():\n            self._wake",
    ),
    Mutation("an outage stops the clock of leases", ENGINE + "shard.py", "            self._time.freeze()\n", "            pass\n"),
    Mutation("ended tasks stay while a look-up is open", ENGINE + "records.py", "        return not self._open\n", "        return True\n"),
    # Snapshots: G1.
    Mutation("a task is handed over before it changes", CORE + "evolve.py", "        state.walk.before_change(task)\n", "        pass\n"),
    Mutation("once", CORE + "snapshot.py", " and number not in self._early:", ":"),
    Mutation("and not by the walk as well", CORE + "snapshot.py", "if task.number not in early:", "if True:"),
    Mutation("what came later is not in it", CORE + "snapshot.py", "self._next <= number < self._until", "self._next <= number"),
    Mutation("a piece keeps a task as it was", "coordinator/journal/snapshot_codec.py", "live.chunks = bytes(task.chunks)", "pass"),
    Mutation(
        "only what merely waits is packed as that", "coordinator/journal/snapshot_codec.py", "if task.fence or task.run", "if task.run"
    ),
    Mutation(
        "a snapshot is of the entry that is being written",
        ENGINE + "shard.py",
        "sequence=self.sequence + bool(commit.events), namespaces",
        "sequence=self.sequence, namespaces",
    ),
    Mutation(
        "it is not begun while something else waits to be written",
        ENGINE + "shard.py",
        "            else:  # memory is now as it will be",
        "            if True:  # memory is now as it will be",
    ),
    Mutation("it waits until that is durable", ENGINE + "snapshots.py", "        await durable\n", ""),
    Mutation("a gap in the journal is not skipped", ENGINE + "recovery.py", "if sequence != recovered.sequence + 1:", "if False:"),
    Mutation("replay begins behind the snapshot", ENGINE + "recovery.py", "    recovered.sequence = snapshot.sequence\n", ""),
    Mutation("who lost the shard while reading says so", ENGINE + "recovery.py", ".answer is AppendAnswer.FENCED:", ".answer is None:"),
    Mutation(
        "a claim removes half a snapshot",
        "coordinator/journal/memory_store.py",
        "        shard.unfinished = None\n        _after",
        "        _after",
    ),
    # Room in the store: G7.
    Mutation(
        "what has just ended is looked up, too",
        ENGINE + "intake.py",
        "and spec.task_id not in state.tasks]",
        "and state.find(spec.task_id) is None]",
    ),
    Mutation("a full store takes nothing new", ENGINE + "intake.py", "if full is not None and", "if False and"),
    Mutation(
        "what is there already is known in a full store", ENGINE + "intake.py", " and scheduler.state.find(spec.task_id) is None:", ":"
    ),
    Mutation(
        "submits stop at a share of the memory",
        ENGINE + "room.py",
        "self._wanted_bytes() >= allowed:",
        "self._used_bytes >= self._limit_bytes:",
    ),
    Mutation("the next snapshot counts", ENGINE + "room.py", "return self._used_bytes + self._reserve_bytes", "return self._used_bytes"),
    Mutation("what is written meanwhile counts", ENGINE + "room.py", "        self._used_bytes += 2 * count", "        pass"),
    Mutation("the disk counts", ENGINE + "room.py", "self._free_disk_bytes < MIN_FREE_DISK_BYTES:", "False:"),
    Mutation("where room is tight, a snapshot comes sooner", ENGINE + "snapshots.py", "if not self._room.is_tight():", "if True:"),
    Mutation("with room, results stay", ENGINE + "sweeper.py", "if shard.room.is_tight() else ()", "if True else ()"),
    Mutation("without, they go", ENGINE + "sweeper.py", "if shard.room.is_tight() else ()", "if False else ()"),
    Mutation("a slim record knows its task", "coordinator/convert.py", "known.request_digest == request_digest(request)", "True"),
    # The store in memory, which the simulation relies on
    Mutation(
        "the store refuses another owner",
        "coordinator/journal/memory_store.py",
        "if shard.owner is not token:\n            return self._fenced()",
        "if False:\n            return self._fenced()",
    ),
    Mutation(
        "the store knows its last commit",
        "coordinator/journal/memory_store.py",
        "if shard.sequence == sequence and shard.commit_nonce == commit_nonce:",
        "if False:",
    ),
    # Namespaces that are deleted.
    Mutation(
        "nothing of a namespace goes before its deletion is durable",
        ENGINE + "deletion.py",
        "if name not in shard.deleted or shard.deleted[name] is not None:",
        "if name not in shard.deleted:",
    ),
    Mutation(
        "whoever follows a deleted namespace is told when it is durable",
        ENGINE + "deletion.py",
        "    shard.when_durable(lambda: _is_durable(shard, namespace))\n",
        "    _is_durable(shard, namespace)\n",
    ),
    Mutation(
        "the end of a purge is journalled",
        ENGINE + "deletion.py",
        "                shard.journal(name, NamespaceDeleted(purged=True))\n",
        "",
    ),
    Mutation(
        "a name is free only when nothing is left of it", ENGINE + "shard.py", "        if name in self.deleted:\n", "        if False:\n"
    ),
    Mutation(
        "nothing is decided on a deleted namespace",
        ENGINE + "shard.py",
        "        if self.deleted.get(namespace.name) is namespace:\n",
        "        if False:\n",
    ),
    Mutation(
        "a snapshot names what is being deleted",
        ENGINE + "snapshots.py",
        "*(SnapshotNamespace(name, 0, 0, deleted=True) for name in deleted)",
        "",
    ),
    Mutation("a recovered deletion goes on", ENGINE + "shard.py", "        self.deleted |= dict.fromkeys(recovered.deleted)\n", ""),
    Mutation(
        "a namespace's own retention counts",
        ENGINE + "sweeper.py",
        "self._retention_of(shard, name), calls=None",
        "self._retention, calls=None",
    ),
    # What operators let a namespace hold.
    Mutation(
        "a namespace's own limit of live tasks counts",
        CORE + "scheduler.py",
        "                self.max_live_tasks = limits.max_live_tasks or self.settings.max_live_tasks\n",
        "",
    ),
    Mutation(
        "a namespace's own limit of bytes counts",
        CORE + "scheduler.py",
        "                self.max_live_bytes = limits.max_live_bytes or self.settings.max_live_bytes\n",
        "",
    ),
    Mutation("fences grow over namespaces of one name", ENGINE + "shard.py", "epoch = max(self.epoch, created_ms)", "epoch = self.epoch"),
]
