"""The guards of what operators do: other priorities, redrives, pauses, cordons."""

from tests.mutation_row import CORE, Mutation

CODEC = "coordinator/journal/operations_codec.py"
BULK = "coordinator/rpc/bulk_ended.py"
SNAPSHOTS = "coordinator/journal/snapshot_codec.py"

OPERATION_MUTATIONS = [
    # Another priority.
    Mutation(
        "another priority moves what is ready",
        CORE + "operations.py",
        "        scheduler.ready.move(task, before)\n",
        "        pass\n",
    ),
    # Another run.
    Mutation("a live task isn't redriven", CORE + "evolve.py", "if spec.task_id in state.tasks or event.number", "if event.number"),
    Mutation("a redriven task's fences grow", CORE + "evolve.py", "    task.fence = ended.fence\n", ""),
    Mutation("a redriven task is of the next run", CORE + "evolve.py", "    task.run = ended.run + 1\n", "    task.run = ended.run\n"),
    Mutation(
        "a redriven task is as young as a new one",
        CORE + "evolve.py",
        "        task.first_ready_ms = task.ready_at_ms = date_ms\n",
        "        task.ready_at_ms = date_ms\n",
    ),
    Mutation("a redriven task keeps its history", CORE + "evolve.py", "    task.history = ended.history\n", ""),
    Mutation(
        "a snapshot knows another priority", SNAPSHOTS, "task.spec, task.reprioritised = task.spec.at(live.priority), live.priority", "pass"
    ),
    Mutation("a snapshot knows when a run began", SNAPSHOTS, "live.run_create_ms or live.create_ms", "live.create_ms"),
    Mutation(
        "the journal knows a redriven task's priority", CODEC, "spec=spec.at(redriven.priority) if redriven.priority else spec", "spec=spec"
    ),
    Mutation(
        "a redriven task knows the result of its last run",
        CORE + "evolve.py",
        "    task.result_fence = ended.result_fence  # that result was taken, and may be sent again\n",
        "",
    ),
    Mutation(
        "a redriven task's durations begin anew",
        CORE + "evolve.py",
        "task.run_created_ms = task.changed_ms = date_ms",
        "task.changed_ms = date_ms",
    ),
    Mutation("a redriven task's delay isn't waited for again", CORE + "evolve.py", "if task.ready_at_ms <= date_ms:", "if True:"),
    Mutation("a delay that is over is over", CORE + "evolve.py", "        task.place = event.number\n", ""),
    Mutation("a limit refuses a redriven task", CORE + "operations.py", "    if refused is not None:\n        return refused\n", ""),
    Mutation("a redriven task had attempts", CORE + "operations.py", "    if task.agent:\n", "    if False:\n"),
    Mutation(
        "counts move with another priority",
        CORE + "operations.py",
        "    scheduler.statistics.moved(task, before, is_dated=is_dated)\n",
        "",
    ),
    Mutation("what runs is counted where it runs", CORE + "statistics.py", "running=change * running, delayed", "delayed"),
    Mutation("what waits for a date is counted where it does", CORE + "statistics.py", ", delayed=change * is_dated", ""),
    Mutation(
        "another priority moves what a limit holds up",
        CORE + "ready_queue.py",
        "            self.pools.move(lane, task, keys, before)\n",
        "            pass\n",
    ),
    Mutation("a record says which call redrove it", "coordinator/convert.py", "        request_id=entry.request_id,\n", ""),
    Mutation("a restart knows which call redrove a task", CODEC, "redriven.reason, redriven.request_id)", "redriven.reason)"),
    # Calls that are repeated, and what they meet: for the simulation.
    Mutation(
        "a call that is repeated redrives nothing twice",
        BULK,
        "if convert_operations.was_redriven_by(record, self._request_id):",
        "if False:",
    ),
    Mutation("what has begun its next run is left alone", BULK, "if present is not None and present.number != record.number:", "if False:"),
    Mutation(
        "a redriven task's record goes with the commit",
        "coordinator/engine/shard.py",
        "if type(event) is Redriven] if self.redrives else ()",
        "if type(event) is Redriven] if False else ()",
    ),
    Mutation(
        "who is answered waits until it is durable",
        BULK,
        "        shard.decided(namespace, now)\n        await shard.durable_write()\n",
        "        shard.decided(namespace, now)\n",
    ),
    # Found by the state machine beside them.
    Mutation(
        "a type with a limit at its agent is a rival, too",
        CORE + "preferences.py",
        "for room in group.rooms.values())  # types",
        "for room in (group.plain,))  # types",
    ),
]
