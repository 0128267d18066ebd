"""The guards of queues and heaps: of where tasks wait, and of what is found first."""

from tests.mutation_row import CORE, Mutation

QUEUE_MUTATIONS = [
    Mutation(
        "an older head has the timer of its own time",
        CORE + "fifo.py",
        "if self.due_slot and self._armed_ms <= due_ms > self._ages.now_ms:",
        "if self.due_slot and due_ms > self._ages.now_ms:",
    ),
    Mutation(
        "who leaves a queue is the one meant",
        CORE + "ordered_tasks.py",
        "if at == len(chunk) or chunk[at] is not task:",
        "if at == len(chunk):",
    ),
    Mutation("chunks of a queue stay small", CORE + "ordered_tasks.py", "if len(chunk) > CHUNK:", "if False:"),
    Mutation("empty chunks go", CORE + "ordered_tasks.py", "if not chunk:  # not the front", "if False:  # not the front"),
    Mutation(
        "a queue at rest forgets its last task",
        CORE + "fifo.py",
        "        self._tasks.remove(task)\n        self.live -= 1\n        if not self.live:\n",
        "        self._tasks.remove(task)\n        self.live -= 1\n        if False:\n",
    ),
    Mutation("a large heap is swept", CORE + "lazy_heap.py", "if 4 * len(heap) <= 5 * len(entries):", "if True:"),
    Mutation(
        "a large heap is swept as items leave",
        CORE + "lazy_heap.py",
        "            item.watchers[self] = None\n            if len(self._heap) > _AT_ONCE:",
        "            item.watchers[self] = None\n            if False:",
    ),
    Mutation(
        "who rests is told when it is due",
        CORE + "lazy_heap.py",
        "            item.watchers[self] = None\n            if len(",
        "            if len(",
    ),
    Mutation(
        "what takes the place of an entry goes where it belongs",
        CORE + "lazy_heap.py",
        "    while at and entry < heap[parent := (at - 1) // 2]:",
        "    while (parent := at) < 0:",
    ),
    Mutation("empty lanes are swept bit by bit", CORE + "ready_queue.py", "min(_SWEPT, len(self._to_sweep))", "len(self._to_sweep)"),
    Mutation(
        "a lane that is over lets go of its queues",
        CORE + "ready_queue.py",
        "        self._keyless, self._fifos, self._only, self._best = [], {}, None, LazyHeap()\n        if hasattr",
        "        if hasattr",
    ),
]
