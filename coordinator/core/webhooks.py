"""Webhooks: a task's end gives a delivery for each hook that it has, which is part of the durable state until it was delivered or given up.

A delivery follows from the event that ended its task, so it is durable with it, and costs the journal nothing. It holds what is told, but
for what may be large: whoever delivers it looks into the task's record for that. How it is sent, and when it is tried again, the engine
decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coordinator.core.effects import WebhookDue
from coordinator.core.events import WebhookDelivered, WebhookGivenUp, WebhookRetried
from coordinator.core.history import short, shortened
from coordinator.core.model import Failure, Labels, Now, Task, TaskState
from coordinator.core.sizes import size_of_event

if TYPE_CHECKING:
    from coordinator.core.scheduler import Scheduler
    from coordinator.core.state import State

MAX_GIVEN_UP = 1000  # kept of a namespace, the latest: part of what replay makes, so it never changes
EVERY_TYPE = ""
WebhookEvent = WebhookDelivered | WebhookGivenUp | WebhookRetried


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is told to one hook of one task's end."""

    number: int  # grows by one per delivery of the namespace
    hook: str | None  # the task type of the policy that it is for; None: it is for the task's own webhook
    url: str  # of the task's own webhook
    task_id: str
    task_type: str
    state: TaskState
    run: int
    attempt: int
    agent: str
    created_ms: int
    started_ms: int
    ended_ms: int
    failure: Failure | None  # shortened, and without its stack trace
    reason: str  # why it was cancelled, shortened
    labels: Labels  # the task's
    due_ms: int  # when it became due: when the task ended, or an operator had it tried again


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A delivery that nobody tries any more."""

    delivery: Delivery
    date_ms: int
    reason: str


class Deliveries:
    """The deliveries of a namespace, by number, the oldest first."""

    __slots__ = ("given_up", "next_number", "of_hook", "pending")

    def __init__(self) -> None:
        self.pending: dict[int, Delivery] = {}
        self.given_up: dict[int, GivenUp] = {}
        self.next_number = 1
        self.of_hook: dict[str | None, int] = {}  # how many are pending for each

    def add(self, delivery: Delivery) -> None:
        """One is pending."""
        self.pending[delivery.number] = delivery
        self.of_hook[delivery.hook] = self.of_hook.get(delivery.hook, 0) + 1

    def remove(self, number: int) -> Delivery:
        """One isn't pending any more. Raises KeyError when it wasn't."""
        delivery = self.pending.pop(number)
        left = self.of_hook.pop(delivery.hook) - 1
        if left:
            self.of_hook[delivery.hook] = left
        return delivery

    def give_up(self, given_up: GivenUp) -> None:
        """Keeps one that was given up, and the latest of them alone."""
        self.given_up[given_up.delivery.number] = given_up
        if len(self.given_up) > MAX_GIVEN_UP:
            del self.given_up[next(iter(self.given_up))]


class DeliveryWalk:
    """One walk over a namespace's deliveries for a snapshot, beside that over its tasks.

    Deliveries never change, so a list of them is what they are now: a millisecond for a hundred thousand.

    Args:
        deliveries: the namespace's.
        keep: takes one.
    """

    __slots__ = ("_keep", "_place", "_stored")

    def __init__(self, deliveries: Deliveries, keep: Callable[[Delivery | GivenUp], None]) -> None:
        self._stored: list[Delivery | GivenUp] = [*deliveries.pending.values(), *deliveries.given_up.values()]
        self._keep = keep
        self._place = 0

    def step(self, limit: int) -> bool:
        """Hands over the next `limit`. Answers whether there are more."""
        for stored in self._stored[self._place : self._place + limit]:
            self._keep(stored)
        self._place += limit
        return self._place < len(self._stored)

    def abandon(self) -> None:
        """Ends the walk before its time."""
        self._place = len(self._stored)


def begin_deliveries(state: State, task: Task) -> None:
    """A task has just ended: whoever is to be told of it, in a fixed order."""
    own = task.spec.webhook
    if own is not None and task.state in own.states:
        _begin(state, task, None, own.url)
    if state.hooks:
        for hook in dict.fromkeys((task.spec.task_type, EVERY_TYPE)):
            policy = state.hooks.get(hook)
            if policy is not None and policy.url and task.state in policy.states:
                _begin(state, task, hook, "")


def _begin(state: State, task: Task, hook: str | None, url: str) -> None:
    spec, deliveries = task.spec, state.deliveries
    deliveries.add(
        Delivery(
            deliveries.next_number,
            hook,
            url,
            spec.task_id,
            spec.task_type,
            task.state,
            task.run,
            task.attempt,
            task.agent,
            task.created_ms,
            task.started_ms,
            task.ended_ms,
            shortened(task.failure) if task.state is TaskState.FAILED else None,
            short(task.cancel_reason or "") if task.state is TaskState.CANCELLED else "",
            spec.labels,
            task.ended_ms,
        )
    )
    deliveries.next_number += 1


def evolve_webhooks(state: State, event: WebhookEvent, date_ms: int) -> None:
    """Applies an event about deliveries to the durable state, as `evolve` does those about tasks. Raises KeyError when it doesn't fit."""
    deliveries = state.deliveries
    match event:
        case WebhookDelivered():
            deliveries.remove(event.delivery)
        case WebhookGivenUp():
            deliveries.give_up(GivenUp(deliveries.remove(event.delivery), date_ms, event.reason))
        case WebhookRetried():
            deliveries.add(replace(deliveries.given_up.pop(event.delivery).delivery, due_ms=date_ms))


def restore_delivery(state: State, stored: Delivery | GivenUp) -> None:
    """Puts what a snapshot says of one delivery into a state that is being recovered."""
    if isinstance(stored, Delivery):
        state.deliveries.add(stored)
    else:
        state.deliveries.give_up(stored)


def deliveries_begun(scheduler: Scheduler, now: Now) -> None:
    """A task that has just ended had hooks: has what is due sent once it is durable, and gives up what is too much.

    Each policy has its share of the pending deliveries, so that an endpoint that is down crowds out none but its own. Tasks' own are
    limited when they are submitted.
    """
    state = scheduler.state
    deliveries = state.deliveries
    for number in range(scheduler.next_delivery, deliveries.next_number):
        delivery = deliveries.pending[number]
        share = max(1, scheduler.settings.max_pending_webhooks // max(1, len(state.hooks)))
        if delivery.hook is not None and deliveries.of_hook[delivery.hook] > share:
            give_up(scheduler, number, f"{share} webhooks waited for the same policy: no more are kept", now)
        else:
            scheduler.effects.append(WebhookDue(delivery))
    scheduler.next_delivery = deliveries.next_number


def is_full(scheduler: Scheduler) -> bool:
    """Whether so many deliveries to tasks' own webhooks are pending that no more tasks with one are taken."""
    return scheduler.state.deliveries.of_hook.get(None, 0) >= scheduler.settings.max_pending_webhooks


def delivered(scheduler: Scheduler, number: int, now: Now) -> None:
    """A pending delivery was answered well."""
    _apply(scheduler, WebhookDelivered(number), now)
    scheduler.totals.webhooks_delivered += 1


def give_up(scheduler: Scheduler, number: int, reason: str, now: Now) -> None:
    """A pending delivery won't be tried any more."""
    _apply(scheduler, WebhookGivenUp(number, reason), now)
    scheduler.totals.webhooks_given_up += 1


def retry(scheduler: Scheduler, number: int, now: Now) -> bool:
    """Has a delivery that was given up tried again. Answers whether there was one."""
    if number not in scheduler.state.deliveries.given_up:
        return False
    _apply(scheduler, WebhookRetried(number), now)
    scheduler.effects.append(WebhookDue(scheduler.state.deliveries.pending[number]))
    return True


def _apply(scheduler: Scheduler, event: WebhookEvent, now: Now) -> None:
    evolve_webhooks(scheduler.state, event, now.date_ms)
    scheduler.events.append(event)
    scheduler.bytes += size_of_event(event)
