"""The guards that notice what a store has lost."""

from tests.mutation_row import ENGINE, Mutation

_LOST = ENGINE + "lost_writes.py"
_STATE = "coordinator/state/"

LOST_MUTATIONS = [
    Mutation(
        "a journal that ends before what was acknowledged is noticed",
        _LOST,
        "missing = max(self.sequence - sequence, 0) + self._replaced",
        "missing = self._replaced",
    ),
    Mutation(
        "an entry in the place of ours is noticed",
        _LOST,
        "            self._replaced += 1\n",
        "            pass\n",
    ),
    Mutation(
        "what others wrote behind ours is no loss",
        _LOST,
        "if commit.sequence <= self.sequence and commit.epoch > self._epoch:",
        "if commit.epoch > self._epoch:",
    ),
    Mutation(
        "what another owner said is remembered",
        _LOST,
        "        if (epoch, sequence) > (self._epoch, self.sequence):\n",
        "        if False:\n",
    ),
    Mutation(
        "what was acknowledged is remembered",
        ENGINE + "shard.py",
        "        self.lost.acknowledged(self.epoch, sequence)\n",
        "",
    ),
    Mutation(
        "a claim that is lost is no takeover",
        "coordinator/journal/memory_store.py",
        "return AppendAnswer.DIVERGED if self._shard.epoch < self._epoch else AppendAnswer.FENCED",
        "return AppendAnswer.FENCED",
    ),
    Mutation(
        "an epoch is given out once, whatever the store has lost",
        "coordinator/journal/memory_store.py",
        "max(shard.epoch + 1, self._epoch + 1, now)",
        "max(shard.epoch + 1, now)",
    ),
    Mutation(
        "a read that shows less than was known is refused",
        _STATE + "reads.py",
        "        if revision < known:\n",
        "        if False:\n",
    ),
    Mutation(
        "so is a list",
        _STATE + "namespace.py",
        " and answer.revision < known:\n",
        " and False:\n",
    ),
    Mutation(
        "a store that is behind is written to at once",
        _STATE + "writer.py",
        "            if call.commands or chores or self._is_behind:\n",
        "            if call.commands or chores:\n",
    ),
    Mutation(
        "a state that is served anew remembers where it was",
        _STATE + "engine.py",
        "            self._known[namespace] = header\n",
        "            pass\n",
    ),
]
