"""The guards of what operators do: other priorities, redrives, pauses, cordons."""

from tests.mutation_row import CORE, Mutation

CODEC = "coordinator/journal/operations_codec.py"
SNAPSHOTS = "coordinator/journal/snapshot_codec.py"

OPERATOR_MUTATIONS = [
    # Another priority.
    Mutation(
        "what moved isn't here",
        CORE + "fifo.py",
        "return task.state in WAITING and task not in self._moved",
        "return task.state in WAITING",
    ),
    Mutation("what moved isn't the head", CORE + "fifo.py", "head.state not in WAITING or self._moved:", "head.state not in WAITING:"),
    Mutation("what moved back stands once", CORE + "fifo.py", "if self._moved and task in self._moved:", "if False:"),
    Mutation(
        "what moved is dropped with the rest",
        CORE + "fifo.py",
        "if task.state in WAITING and task not in self._moved])",
        "if task.state in WAITING])",
    ),
    Mutation(
        "what moved and went may come again",
        CORE + "fifo.py",
        "            self._moved.discard(fresh.popleft())\n",
        "            fresh.popleft()\n",
    ),
    Mutation(
        "what moved and went may come again, out of the heap",
        CORE + "fifo.py",
        "            self._moved.discard(heapq.heappop(returned)[1])\n",
        "            heapq.heappop(returned)\n",
    ),
    Mutation(
        "another priority moves what is ready",
        CORE + "operations.py",
        "            scheduler.ready.move(task, before)\n",
        "            pass\n",
    ),
]
