"""Acknowledgements that mean replicas: what is sent behind a write so that it isn't answered before they have it.

WAIT counts for the last write of its own connection, so it goes out with the write, and a write that is repeated must write something.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import hiredis
from redis.exceptions import ResponseError

WAIT_MS: Final = 1000  # then it is an outage, which is as long as the caller of a read waits


class TooFewReplicasError(ResponseError):
    """Too few replicas have a write: it is there, and may be lost yet. The caller repeats it, as after any outage."""


@dataclass(frozen=True, slots=True)
class ReplicaWait:
    """How many replicas a write is waited for.

    Args:
        replicas: how many, at least 1.
        on_disk: they, and the primary, have it on disk (WAITAOF); else they have it in memory (WAIT).
        timeout_ms: how long they may take.
    """

    replicas: int
    on_disk: bool
    timeout_ms: int = WAIT_MS
    packed: bytes = field(init=False)

    def __post_init__(self) -> None:
        waiting: list[tuple[Any, ...]] = [("WAIT", self.replicas, self.timeout_ms)]
        if self.on_disk:
            # Alone it takes a second (2 ms like this): replicas are asked before they have flushed, and then say so once a second.
            waiting.append(("WAITAOF", 1, self.replicas, self.timeout_ms))
        object.__setattr__(self, "packed", b"".join(map(hiredis.pack_command, waiting)))

    @property
    def answers(self) -> int:
        """How many answers come for what is sent."""
        return 2 if self.on_disk else 1

    def check(self, answers: Sequence[Any]) -> None:
        """Raises TooFewReplicasError unless the server's answers say that enough have it."""
        local, replicas = answers[1] if self.on_disk else (1, answers[0])
        if replicas < self.replicas or local < 1:
            where = "on disk" if self.on_disk else "in memory"
            raise TooFewReplicasError(f"NOREPLICAS {replicas} of {self.replicas} replicas have it {where}")
