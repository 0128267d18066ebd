"""What limits allow, said a second time and naively: every start is remembered, and counted again for each question."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator.core.events import AnyEvent, PolicyDeleted, PolicySet
from coordinator.core.model import Spec
from coordinator.core.policies import ConcurrencyLimitPolicy, Policy, PolicyName, RateLimitPolicy, WhenFull

FIELDS = ("concurrency_key", "rate_key", "task_type")


@dataclass(slots=True)
class KnownLimits:
    """The limits that hold. `starts` has the date and the key of what began under each rate limit."""

    policies: dict[PolicyName, Policy] = field(default_factory=dict)
    starts: dict[PolicyName, list[tuple[int, str]]] = field(default_factory=dict)
    must_cancel: int | None = None  # the task that the newcomer replaces

    def observe(self, event: AnyEvent) -> None:
        """Something was decided."""
        match event:
            case PolicySet():
                self.policies[event.policy.name] = event.policy
            case PolicyDeleted():
                del self.policies[event.name]
                self.starts.pop(event.name, None)
            case _:
                pass

    def submitted(self, spec: Spec, live: Sequence[int]) -> None:
        """A new task was taken; `live` has those of its concurrency key, without it."""
        policy = self.of("concurrency_key", spec.scheduling.concurrency_key)
        if isinstance(policy, ConcurrencyLimitPolicy) and len(live) >= policy.max_running:
            assert policy.when_full is not WhenFull.REJECT, "its key is full: it must be refused"
            if policy.when_full is WhenFull.CANCEL_OLDEST and live:
                self.must_cancel = min(live)

    def began(self, spec: Spec, date_ms: int) -> None:
        """An attempt began."""
        for policy, key in self._rates(spec):
            self.starts.setdefault(policy.name, []).append((date_ms, key))

    def hold_up(self, spec: Spec, running: Sequence[Spec], date_ms: int) -> bool:
        """Whether a task can't begin at a date."""
        for rate, key in self._rates(spec):
            window = [
                began_ms for began_ms, other in self.starts.get(rate.name, ()) if other == key and began_ms + rate.period_ms > date_ms
            ]
            if len(window) >= rate.count:
                return True
        for policy, key, of in (
            (self.of("concurrency_key", spec.scheduling.concurrency_key), spec.scheduling.concurrency_key, "concurrency_key"),
            (self.of("task_type", spec.task_type), spec.task_type, "task_type"),
        ):
            others = [one for one in running if key == (one.task_type if of == "task_type" else one.scheduling.concurrency_key)]
            if isinstance(policy, ConcurrencyLimitPolicy) and len(others) >= policy.max_running:
                return True
        return False

    def of(self, what: str, key: str, kind: type = ConcurrencyLimitPolicy) -> Policy | None:
        """The limit of one kind for a key: of an exact name, or of the longest prefix."""
        found, length = None, -1
        for policy in self.policies.values():
            pattern = getattr(policy, what, "") if isinstance(policy, kind) else ""
            if pattern and key and (pattern == key or (pattern.endswith("*") and key.startswith(pattern[:-1]))):
                rank = 1000 if pattern == key else len(pattern)
                if rank > length:
                    found, length = policy, rank
        return found

    def _rates(self, spec: Spec) -> list[tuple[RateLimitPolicy, str]]:
        found = [
            (self.of("rate_key", spec.scheduling.rate_key, RateLimitPolicy), spec.scheduling.rate_key),
            (self.of("task_type", spec.task_type, RateLimitPolicy), spec.task_type),
        ]
        return [(policy, key) for policy, key in found if isinstance(policy, RateLimitPolicy)]
