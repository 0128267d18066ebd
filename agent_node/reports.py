"""What a running handler tells of itself, gathered until the stream takes it.

Written by the handler's thread, emptied by the stream's. Both sides touch only things whose single operations are atomic
(a deque's ends, one attribute), so that neither takes a lock.
"""

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from agent_node.attempt import Attempt, CheckpointData, CheckpointVerdict, HandlerOutcome, Limits, ModelUsage, Progress
from agent_node.errors import AttemptLostError, NonRetryableError, RefusedError

MAX_MESSAGE_CHARACTERS = 1024
MAX_MODELS = 64
_OTHER_MODELS = "other"


@dataclass(frozen=True, slots=True)
class Gathered:
    """What changed since the last time. None and empty mean no change."""

    progress: Progress | None
    usage: tuple[ModelUsage, ...]
    output: bytes
    checkpoint: CheckpointData | None
    cost: float = 0.0  # 0 when nothing was said so far


@dataclass(slots=True)
class Ended:
    """An attempt's handler has ended."""

    attempt: Attempt
    outcome: HandlerOutcome


@dataclass(slots=True)
class CancelDelivered:
    """An attempt's handler has been asked to stop."""

    attempt: Attempt


class ReportsHost(Protocol):
    """What the reports of an attempt need of their surroundings."""

    def limits(self) -> Limits:
        """The coordinator's present bounds."""

    def changed(self, reports: "AttemptReports") -> None:
        """There is something to take from `reports`. Called from the handler's thread."""


class AttemptReports:
    """The reports of one attempt.

    Args:
        attempt: whose they are.
        host: told when there is something to take, and not again before it was taken.
    """

    def __init__(self, attempt: Attempt, host: ReportsHost) -> None:
        self.attempt = attempt
        self._host = host
        self._announced = False
        self._progress: Progress | None = None
        self._usage: dict[str, ModelUsage] = {}
        self._usage_changed = False
        self._output: deque[bytes] = deque()
        self._emitted_bytes = 0
        self._checkpoint: CheckpointData | None = None
        self._checkpoints = 0
        self._waiters: deque[tuple[int, Future[None]]] = deque()
        self._waiters_lock = threading.Lock()  # taken per checkpoint, never per task
        self._lost = False
        self.latest_progress: Progress | None = None
        self.dropped_bytes = 0

    # the handler's side

    def progress(self, progress: Progress) -> None:
        """The latest progress; an earlier one that wasn't taken yet is forgotten."""
        self.latest_progress = progress
        self._progress = progress
        self._announce()

    def use(self, model: str, input_tokens: int, output_tokens: int, requests: int) -> None:
        """Adds to what was consumed at `model`. Beyond 64 models, further ones are summed up as "other"."""
        if model not in self._usage and len(self._usage) >= MAX_MODELS:
            model = _OTHER_MODELS
        so_far = self._usage.get(model, ModelUsage(model, 0, 0, 0))
        self._usage = self._usage | {
            model: ModelUsage(model, so_far.input_tokens + input_tokens, so_far.output_tokens + output_tokens, so_far.requests + requests)
        }
        self._usage_changed = True
        self._announce()

    def cost(self, cost: float) -> None:
        """What the attempt cost; it travels with the result, and the last word counts."""
        self.attempt.cost = cost
        self._announce()

    def emit(self, data: bytes) -> None:
        """Appends to the output. What exceeds the coordinator's bound is dropped, and counted in `dropped_bytes`."""
        room = self._host.limits().output_bytes - self._emitted_bytes
        kept = data[: max(room, 0)]
        self.dropped_bytes += len(data) - len(kept)
        if kept:
            self._emitted_bytes += len(kept)
            self._output.append(kept)
            self._announce()

    def checkpoint(self, data: bytes) -> Future[None]:
        """Hands a resume point over. The future ends when it is stored, or tells why it isn't.

        Raises:
            NonRetryableError: it is larger than the coordinator takes.
        """
        limit = self._host.limits().checkpoint_bytes
        if len(data) > limit:
            raise NonRetryableError(f"a checkpoint of {len(data)} bytes is over the limit of {limit}: keep less in it")
        stored: Future[None] = Future()
        with self._waiters_lock:
            if self._lost:
                raise AttemptLostError("the coordinator gave this attempt up")
            self._checkpoints += 1
            self._waiters.append((self._checkpoints, stored))
            self._checkpoint = CheckpointData(self._checkpoints, data)
        self._announce()
        return stored

    def relay(self, gathered: Gathered) -> Future[None] | None:
        """Takes over what another process gathered for this attempt. Answers the fate of its checkpoint, if it holds one."""
        if gathered.progress is not None:
            self.progress(gathered.progress)
        if gathered.usage:
            self._usage = {each.model: each for each in gathered.usage}
            self._usage_changed = True
            self._announce()
        if gathered.output:
            self.emit(gathered.output)
        if gathered.cost:
            self.cost(gathered.cost)
        return None if gathered.checkpoint is None else self.checkpoint(gathered.checkpoint.data)

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            self._host.changed(self)

    # the stream's side

    def take(self) -> Gathered:
        """What gathered since the last call. Several checkpoints come down to the last, which makes the others pointless."""
        self._announced = False  # first: what is written from here on announces itself again
        progress, self._progress = self._progress, None
        usage: tuple[ModelUsage, ...] = ()
        if self._usage_changed:
            self._usage_changed = False
            usage = tuple(self._usage.values())
        output = b"".join([self._output.popleft() for _ in range(len(self._output))])
        with self._waiters_lock:
            checkpoint, self._checkpoint = self._checkpoint, None
        return Gathered(progress, usage, output, checkpoint, self.attempt.cost)

    def answer_checkpoint(self, sequence: int, verdict: CheckpointVerdict) -> None:
        """The coordinator's answer to a checkpoint, and with it to all before it."""
        for future in self._answered(sequence):
            match verdict:
                case CheckpointVerdict.STORED:
                    future.set_result(None)
                case CheckpointVerdict.LOST:
                    future.set_exception(AttemptLostError("the coordinator gave this attempt up"))
                case CheckpointVerdict.REFUSED:
                    future.set_exception(RefusedError("the coordinator refused the checkpoint", reason="CHECKPOINT_REFUSED"))

    def lose(self) -> None:
        """The attempt counts no more: whoever waits for a checkpoint hears of it, now and later."""
        with self._waiters_lock:
            self._lost = True
        self.answer_checkpoint(self._checkpoints, CheckpointVerdict.LOST)

    def _answered(self, sequence: int) -> list[Future[None]]:
        futures = []
        with self._waiters_lock:
            while self._waiters and self._waiters[0][0] <= sequence:
                future = self._waiters.popleft()[1]
                if future.set_running_or_notify_cancel():  # False: nobody waits any more
                    futures.append(future)
        return futures


def reports_of(attempt: Attempt, host: ReportsHost) -> AttemptReports:
    """The attempt's reports, made when they are first needed: most attempts never report anything."""
    if attempt.reports is None:
        attempt.reports = AttemptReports(attempt, host)
    return attempt.reports


Report = Ended | CancelDelivered | AttemptReports
"""What the runner hands to the stream."""
