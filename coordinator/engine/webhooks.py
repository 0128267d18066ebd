"""Delivers webhooks: in tasks of its own, beside the writers of the shards, who only hear of what came of it.

What is due is durable before it comes here, and its end is journalled like any decision: when a coordinator dies in between, the next one
delivers it again. Everything else is volatile: when a delivery is tried next follows from how old it is, so that nothing need be written
about attempts, and what is known of a host is found out again.
"""

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import count, islice

from coordinator.core.webhooks import EVERY_TYPE, Delivery, delivered, give_up
from coordinator.engine.namespace import Namespace
from coordinator.engine.shard import Shard
from coordinator.errors import Unavailable
from coordinator.ids import Entropy
from coordinator.ports import Clock, WebhookAnswer, WebhookCodec, WebhookSender, WebhookVerdict
from coordinator.webhook_urls import origin_of

log = logging.getLogger(__name__)

PER_STEP = 500  # deliveries taken in, or found to be over, at a time: a millisecond or two of the event loop
STORE_RETRY_S = 1.0  # while the store is out, nothing is sent: its end could not be journalled
JITTER = 0.2  # a backoff is up to so much shorter or longer
MIN_SLEEP_S = 0.005


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """How deliveries are tried. All durations in seconds."""

    first_backoff_s: float = 5.0  # then as long as it has been due: 5, 10, 20 ...
    max_backoff_s: float = 4 * 3600.0  # ... and at most so long: some 15 attempts in a day
    give_up_after_s: float = 24 * 3600.0  # from when it became due: long enough for somebody to see and mend it
    at_once: int = 64  # requests under way, over all hosts: each holds a socket
    at_once_doubtful: int = 16  # of them, to hosts that gave no answer the last time: they can't take all of it
    at_once_per_host: int = 8  # reached one by one, with each answer
    first_pause_s: float = 1.0  # of a host that gave no answer, for all that goes there; doubled each time
    max_pause_s: float = 60.0
    connect_s: float = 5.0  # of a request: to look the name up, connect, and agree on TLS
    answer_s: float = 15.0  # of a request, in all: a receiver that has more to do answers first


DEFAULT_SETTINGS = WebhookSettings()


class _Stage(Enum):
    BACKOFF = 1  # it waits for its time
    QUEUED = 2  # it waits for its host
    SENDING = 3
    OVER = 4  # its namespace was deleted or rebuilt


class _Entry:
    """One pending delivery."""

    __slots__ = ("at_s", "attempts", "delivery", "host", "namespace", "reason", "stage")

    def __init__(self, namespace: Namespace, delivery: Delivery) -> None:
        self.namespace = namespace
        self.delivery = delivery
        self.host: _Host | None = None
        self.stage = _Stage.QUEUED
        self.attempts = 0
        self.reason = ""  # why the last one failed
        self.at_s = 0.0  # when its backoff ends


class _Host:
    """Where deliveries go: a scheme, a host and a port."""

    __slots__ = ("allowed", "entries", "failures", "origin", "paused_until_s", "queue", "reason", "sending")

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.queue: deque[_Entry] = deque()
        self.entries = 0  # that go there: while there are some, it is remembered how it does
        self.sending = 0
        self.allowed = 1
        self.failures = 0  # one after the other
        self.paused_until_s = 0.0
        self.reason = ""  # of the last failure


@dataclass(frozen=True, slots=True)
class Progress:
    """How a pending delivery fares. `next_in_s` is None when it is tried as soon as its host has room."""

    attempts: int
    reason: str
    next_in_s: float | None


class WebhookDispatcher:
    """Tries what is due until it is delivered or given up.

    Args:
        sender: sends a request.
        codec: makes it.
        clock: durations.
        entropy: jitter for backoffs.
        settings: how deliveries are tried.
    """

    def __init__(
        self, *, sender: WebhookSender, codec: WebhookCodec, clock: Clock, entropy: Entropy, settings: WebhookSettings = DEFAULT_SETTINGS
    ) -> None:
        self._sender = sender
        self._codec = codec
        self._clock = clock
        self._entropy = entropy
        self._settings = settings
        self._arriving: deque[tuple[Namespace, Iterator[Delivery]]] = deque()
        self._leaving: deque[Iterator[_Entry]] = deque()
        self._shards: dict[Namespace, Shard] = {}
        self._entries: dict[Namespace, dict[int, _Entry]] = {}
        self._hosts: dict[str, _Host] = {}
        self._ready: dict[_Host, None] = {}  # those that something may be sent to now, the longest unserved first
        self._doubtful: dict[_Host, None] = {}  # likewise, of those that gave no answer the last time
        self._timers: list[tuple[float, int, _Entry | _Host]] = []
        self._timers_made = count()
        self._sending: set[asyncio.Task[None]] = set()
        self._sending_doubtful = 0
        self._wake = asyncio.Event()

    # --- what it is told ---

    def due(self, shard: Shard, namespace: Namespace, deliveries: Iterable[Delivery]) -> None:
        """These are pending, and durable. They are taken in bit by bit: after a restart they may be many."""
        if namespace not in self._shards:
            self._shards[namespace] = shard
            self._entries[namespace] = {}
            namespace.when_over(partial(self._over, namespace))
        self._arriving.append((namespace, iter(deliveries)))
        self._wake.set()

    def _over(self, namespace: Namespace) -> None:
        """Nothing of a namespace is delivered any more. What is on its way to a receiver can't be called back."""
        del self._shards[namespace]
        self._leaving.append(iter(self._entries.pop(namespace).values()))
        self._wake.set()

    def hurry(self, namespace: Namespace, numbers: Iterable[int]) -> int:
        """Tries pending deliveries now that wait for their time or for their host. Answers how many are pending."""
        entries = self._entries.get(namespace, {})
        found = [entries[number] for number in numbers if number in entries]
        for entry in found:
            if entry.stage is _Stage.BACKOFF:
                self._enqueue(entry)
            if entry.host is not None and entry.host.paused_until_s:
                entry.host.paused_until_s = 0.0
                self._offer(entry.host)
        self._wake.set()
        return len(found)

    def progress(self, namespace: Namespace, number: int) -> Progress:
        """How a pending delivery fares."""
        entry = self._entries.get(namespace, {}).get(number)
        if entry is None:
            return Progress(0, "", None)
        reason = entry.reason or (entry.host.reason if entry.host is not None and entry.host.failures else "")
        waits = entry.stage is _Stage.BACKOFF
        return Progress(entry.attempts, reason, max(0.0, entry.at_s - self._clock.now_s()) if waits else None)

    # --- the loop ---

    async def run(self) -> None:
        """Delivers until cancelled."""
        try:
            while True:
                self._wake.clear()
                if self._step():
                    await asyncio.sleep(0)
                    continue
                try:
                    async with asyncio.timeout(self._until_next_s()):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    def _until_next_s(self) -> float | None:
        return max(self._timers[0][0] - self._clock.now_s(), MIN_SLEEP_S) if self._timers else None

    def _step(self) -> bool:
        """Does some of what is to be done now. Answers whether there is more."""
        left = self._take_in(self._let_go(PER_STEP))
        now_s = self._clock.now_s()
        while left and self._timers and self._timers[0][0] <= now_s:
            left -= 1
            at_s, _, item = heapq.heappop(self._timers)
            if isinstance(item, _Host):
                self._offer(item)
            elif item.stage is _Stage.BACKOFF and item.at_s == at_s:
                self._enqueue(item)
        while left and (host := self._next_host()) is not None:
            left -= self._serve(host, left)
        return left <= 0

    def _let_go(self, limit: int) -> int:
        """Lets go of entries whose namespace is over. Answers how much of `limit` is left."""
        while self._leaving and limit:
            leaving = list(islice(self._leaving[0], limit))
            limit -= len(leaving)
            for entry in leaving:
                self._leave(entry)
                entry.stage = _Stage.OVER
                del entry.namespace  # a backoff may remember the entry for hours; all the namespace's tasks need not stay for that
            if limit:
                self._leaving.popleft()
        return limit

    def _take_in(self, limit: int) -> int:
        """Takes in what arrives. Answers how much of `limit` is left."""
        while self._arriving and limit:
            namespace, deliveries = self._arriving[0]
            taken = list(islice(deliveries, limit))
            limit -= len(taken)
            entries = self._entries.get(namespace)
            for delivery in taken if entries is not None else ():
                entries[delivery.number] = entry = _Entry(namespace, delivery)  # type: ignore[index]
                self._enqueue(entry)
            if limit or entries is None:
                self._arriving.popleft()
        return limit

    # --- hosts ---

    def _enqueue(self, entry: _Entry) -> None:
        """An entry waits for its host."""
        target = self._target(entry)
        origin = origin_of(target[0]) if target is not None else ""  # without a target it will be given up when its turn comes
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts[origin] = _Host(origin)
        if entry.host is not host:
            self._leave(entry)
            entry.host = host
            host.entries += 1
        entry.stage = _Stage.QUEUED
        host.queue.append(entry)
        self._offer(host)

    def _leave(self, entry: _Entry) -> None:
        """An entry doesn't go to its host any more; one that none goes to is forgotten."""
        host = entry.host
        if host is not None:
            entry.host = None
            host.entries -= 1
            if not host.entries and self._hosts.get(host.origin) is host:
                del self._hosts[host.origin]

    def _offer(self, host: _Host) -> None:
        """Puts a host among those that something may be sent to, if it is one."""
        if host.queue and host.sending < host.allowed and host.paused_until_s <= self._clock.now_s():
            (self._doubtful if host.failures else self._ready).setdefault(host)

    def _next_host(self) -> _Host | None:
        """Takes out the host whose turn it is."""
        if len(self._sending) >= self._settings.at_once:
            return None
        if self._doubtful and self._sending_doubtful < self._settings.at_once_doubtful:
            host = next(iter(self._doubtful))
            del self._doubtful[host]
            return host
        if self._ready:
            host = next(iter(self._ready))
            del self._ready[host]
            return host
        return None

    def _serve(self, host: _Host, limit: int) -> int:
        """Sends the first of a host's queue that is to be sent. Answers how many it has looked at."""
        looked = over = 0
        reason = ""
        while host.queue and looked < limit:
            looked += 1
            entry = host.queue.popleft()
            if not self._is_pending(entry):
                self._leave(entry)
                continue
            target = self._target(entry)
            if target is None:
                reason = "its webhook was deleted"
            elif self._age_s(entry) >= self._settings.give_up_after_s and (entry.attempts or host.failures):
                reason = f"not delivered within {self._settings.give_up_after_s:g} s: {entry.reason or host.reason}"
            elif origin_of(target[0]) != host.origin:
                self._enqueue(entry)  # its policy has another URL by now
                continue
            elif self._shards[entry.namespace].outage_since_s is not None:
                host.queue.appendleft(entry)
                self._rest(host, STORE_RETRY_S)
                break
            else:
                self._begin(host, entry, *target)
                break
            self._give_up(entry, reason)
            over += 1
        if over:
            log.warning("webhook.given_up origin=%s count=%d reason=%s", host.origin, over, reason)
        self._offer(host)
        return max(looked, 1)

    def _target(self, entry: _Entry) -> tuple[str, Sequence[str]] | None:
        """Where a delivery goes, and what signs it, by what holds now. None: nowhere any more."""
        hooks, delivery = entry.namespace.scheduler.state.hooks, entry.delivery
        if delivery.hook is not None:
            policy = hooks.get(delivery.hook)
            return (policy.url, policy.secrets) if policy is not None and policy.url else None
        signer = hooks.get(delivery.task_type) or hooks.get(EVERY_TYPE)
        return delivery.url, signer.secrets if signer is not None else ()

    # --- one delivery ---

    def _begin(self, host: _Host, entry: _Entry, url: str, secrets: Sequence[str]) -> None:
        entry.stage = _Stage.SENDING
        host.sending += 1
        doubtful = bool(host.failures)
        self._sending_doubtful += doubtful
        task = asyncio.get_running_loop().create_task(self._send(host, entry, url, secrets), name="webhook")
        self._sending.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._sending.discard(task)
            self._sending_doubtful -= doubtful
            host.sending -= 1
            self._offer(host)
            self._wake.set()

        task.add_done_callback(ended)

    async def _send(self, host: _Host, entry: _Entry, url: str, secrets: Sequence[str]) -> None:
        if not self._is_pending(entry):
            return
        shard, namespace, delivery = self._shards[entry.namespace], entry.namespace, entry.delivery
        try:
            [record] = await shard.records.get(namespace.name, [delivery.task_id])
        except Unavailable:
            if self._is_pending(entry):
                self._back_off(entry, STORE_RETRY_S)
            return
        if not self._is_pending(entry):
            return
        try:
            answer = await self._sender.send(
                url=url,
                secrets=secrets,
                event_id=self._codec.event_id(namespace.name, delivery),
                date_s=shard.now().date_ms // 1000,
                body=self._codec.body(namespace.name, delivery, record),
            )
        except Exception as error:  # a task's root: what a stranger's server, or a result, brings about must not end the coordinator
            log.exception("webhook.broken namespace=%s task_id=%s origin=%s", namespace.name, delivery.task_id, host.origin)
            answer = WebhookAnswer(WebhookVerdict.FAILED, f"a fault of the coordinator's, which is in its log ({type(error).__name__})")
        if self._is_pending(entry):
            self._answered(host, entry, answer)

    def _answered(self, host: _Host, entry: _Entry, answer: WebhookAnswer) -> None:
        entry.attempts += 1
        entry.reason = answer.reason
        if answer.verdict is WebhookVerdict.UNREACHABLE:
            self._pause(host, answer.reason)
        else:
            host.failures, host.paused_until_s = 0, 0.0
            host.allowed = min(host.allowed + 1, self._settings.at_once_per_host)
        match answer.verdict:
            case WebhookVerdict.DELIVERED:
                shard = self._shards[entry.namespace]
                now = shard.now()
                delivered(entry.namespace.scheduler, entry.delivery.number, now)
                shard.decided(entry.namespace, now)
                self._forget(entry)
            case WebhookVerdict.GONE:
                self._give_up(entry, answer.reason)
                log.warning("webhook.given_up origin=%s count=1 reason=%s", host.origin, answer.reason)
            case WebhookVerdict.FAILED | WebhookVerdict.UNREACHABLE:
                log.info(
                    "webhook.failed namespace=%s task_id=%s origin=%s attempts=%d reason=%s",
                    entry.namespace.name,
                    entry.delivery.task_id,
                    host.origin,
                    entry.attempts,
                    answer.reason,
                )
                self._back_off(entry, self._backoff_s(entry, answer.retry_after_s or 0.0))

    def _pause(self, host: _Host, reason: str) -> None:
        """A host gave no answer: what else goes there waits, and then goes one at a time until one is answered."""
        if self._clock.now_s() < host.paused_until_s:
            return  # it was asked by several, and the first has said so
        pause_s = min(self._settings.first_pause_s * 2 ** min(host.failures, 30), self._settings.max_pause_s) * self._about_one()
        if not host.failures:
            log.warning("webhook.unreachable origin=%s waiting=%d reason=%s", host.origin, len(host.queue), reason)
        host.failures += 1
        host.allowed = 1
        host.reason = reason
        self._rest(host, pause_s)

    def _rest(self, host: _Host, seconds: float) -> None:
        host.paused_until_s = self._clock.now_s() + seconds
        self._ready.pop(host, None)
        self._doubtful.pop(host, None)
        heapq.heappush(self._timers, (host.paused_until_s, next(self._timers_made), host))

    def _backoff_s(self, entry: _Entry, retry_after_s: float) -> float:
        """As long as it has been due, within bounds; and not after the moment in which it will be given up."""
        age_s, settings = self._age_s(entry), self._settings
        backoff_s = min(max(age_s, settings.first_backoff_s), settings.max_backoff_s) * self._about_one()
        return min(max(backoff_s, retry_after_s), max(settings.give_up_after_s - age_s, settings.first_backoff_s))

    def _about_one(self) -> float:
        return 1.0 + JITTER * (2 * self._entropy.jitter() - 1.0)

    def _age_s(self, entry: _Entry) -> float:
        return max(0, self._shards[entry.namespace].now().date_ms - entry.delivery.due_ms) / 1000

    def _back_off(self, entry: _Entry, seconds: float) -> None:
        entry.stage = _Stage.BACKOFF
        entry.at_s = self._clock.now_s() + seconds
        heapq.heappush(self._timers, (entry.at_s, next(self._timers_made), entry))
        self._wake.set()

    def _is_pending(self, entry: _Entry) -> bool:
        """Whether it is still to be delivered: its namespace may have been deleted or rebuilt meanwhile."""
        shard = self._shards.get(entry.namespace) if entry.stage is not _Stage.OVER else None
        return (
            shard is not None
            and shard.namespaces.get(entry.namespace.name) is entry.namespace
            and entry.delivery.number in entry.namespace.scheduler.state.deliveries.pending
        )

    def _give_up(self, entry: _Entry, reason: str) -> None:
        shard = self._shards[entry.namespace]
        now = shard.now()
        give_up(entry.namespace.scheduler, entry.delivery.number, reason, now)
        shard.decided(entry.namespace, now)
        self._forget(entry)

    def _forget(self, entry: _Entry) -> None:
        self._entries[entry.namespace].pop(entry.delivery.number, None)
        self._leave(entry)
