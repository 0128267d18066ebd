"""What a shard's store has lost of what it had acknowledged, as in a failover to a replica that was behind. It must not know the store.

A shard's journal is never shortened at its end, and whoever claims the shard has a higher epoch than all before. So the store has lost
entries if it ends before one that it had acknowledged to us, or if it has one in the place of ours that was written after our claim by
somebody else; and so it is with what other coordinators said of theirs. What was lost when nobody is left who was told can't be known: the
journal ends a little earlier, and says nothing of it.
"""

import logging

from coordinator.core.events import Commit

log = logging.getLogger(__name__)


class LostWrites:
    """Of one shard, for as long as this process lives.

    Args:
        shard: its number.
    """

    def __init__(self, *, shard: int) -> None:
        self.entries = 0  # of the journal, so far
        self._shard = shard
        self._epoch = 0  # of the claim under which it was
        self.sequence = 0  # of the last entry that was acknowledged, to us or to an owner who said so
        self._replaced = 0

    def acknowledged(self, epoch: int, sequence: int) -> None:
        """The store says that it has this entry, and all before."""
        self._epoch, self.sequence = epoch, sequence

    def heard(self, epoch: int, sequence: int) -> None:
        """Another coordinator has the shard, and says that this entry was acknowledged to it: should it die, only we remember."""
        if (epoch, sequence) > (self._epoch, self.sequence):
            self.acknowledged(epoch, sequence)

    def read_anew(self) -> None:
        """The journal is read from its beginning."""
        self._replaced = 0

    def replayed(self, commit: Commit) -> None:
        """The store has this entry now."""
        if commit.sequence <= self.sequence and commit.epoch > self._epoch:
            self._replaced += 1

    def recovered(self, epoch: int, sequence: int) -> None:
        """The shard was claimed under `epoch`, and its journal was replayed to its end. Says loudly what is missing."""
        missing = max(self.sequence - sequence, 0) + self._replaced
        self._replaced = 0
        if missing:
            self.entries += missing
            log.error(
                "store.lost_writes shard=%d entries=%d had=%d has=%d epoch=%d: the store has gone back behind what it acknowledged, as in "
                "a failover to a replica that was behind. Tasks that were acknowledged last are gone, or as they were before: submit again "
                "what must run, and prevent it with --durability wait-replicas:1",
                self._shard,
                missing,
                self.sequence,
                sequence,
                epoch,
            )
        self.acknowledged(epoch, sequence)
