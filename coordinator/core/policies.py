"""Policies: what operators set for a namespace while it runs. Each is journalled, and holds until it is set anew or deleted.

What a policy does is its own affair: `Scheduler.policy_changed` hands it to whoever follows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from coordinator.core.events import PolicyDeleted, PolicySet
from coordinator.core.model import Now

if TYPE_CHECKING:
    from coordinator.core.scheduler import Scheduler
    from coordinator.core.state import State

MAX_POLICIES = 10_000  # of a namespace: each snapshot writes them in one piece


class PolicyKind(IntEnum):
    """What a policy is about; the numbers are those of muster.v1.PolicyKind."""

    WEIGHT = 1


class PolicyName(NamedTuple):
    """What tells a policy from all others of its namespace."""

    kind: PolicyKind
    key: str


@dataclass(frozen=True, slots=True)
class WeightPolicy:
    """The weight of a fairness key."""

    fairness_key: str
    weight: float

    @property
    def name(self) -> PolicyName:
        """Its kind and key."""
        return PolicyName(PolicyKind.WEIGHT, self.fairness_key)


Policy = WeightPolicy


@dataclass(frozen=True, slots=True)
class StandingPolicy:
    """A policy that holds, and since when by the store's clock."""

    policy: Policy
    set_ms: int


def evolve_policies(state: State, event: PolicySet | PolicyDeleted, date_ms: int) -> None:
    """Applies an event about policies to the durable state, as `evolve` does those about tasks."""
    if isinstance(event, PolicySet):
        state.policies[event.policy.name] = StandingPolicy(event.policy, date_ms)
    else:
        del state.policies[event.name]


def set_policy(scheduler: Scheduler, policy: Policy, now: Now) -> StandingPolicy:
    """Sets a policy, in place of the one with its name."""
    _apply(scheduler, PolicySet(policy), policy.name, now)
    return scheduler.state.policies[policy.name]


def delete_policy(scheduler: Scheduler, name: PolicyName, now: Now) -> bool:
    """Deletes a policy. Answers whether there was one."""
    if name not in scheduler.state.policies:
        return False
    _apply(scheduler, PolicyDeleted(name), name, now)
    return True


def _apply(scheduler: Scheduler, event: PolicySet | PolicyDeleted, name: PolicyName, now: Now) -> None:
    evolve_policies(scheduler.state, event, now.date_ms)
    scheduler.events.append(event)
    scheduler.policy_changed(name, now)
