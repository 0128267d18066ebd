"""What is paused and who is cordoned, said a second time and naively: every policy is asked, each time."""

from dataclasses import dataclass, field

from coordinator.core.events import AnyEvent, PolicyDeleted, PolicySet
from coordinator.core.model import INFINITY
from coordinator.core.policies import CordonPolicy, PausePolicy, PolicyKind


@dataclass(slots=True)
class KnownPauses:
    """The pauses and cordons that hold."""

    ends_ms: dict[str, float] = field(default_factory=dict)  # of pauses, by what they name
    cordoned: set[str] = field(default_factory=set)  # agents

    def observe(self, event: AnyEvent, date_ms: int) -> None:
        """Something was decided."""
        match event:
            case PolicySet(policy=PausePolicy() as pause):
                self.ends_ms[pause.task_type] = date_ms + pause.for_ms if pause.for_ms else INFINITY
            case PolicySet(policy=CordonPolicy() as cordon):
                self.cordoned.add(cordon.agent)
            case PolicyDeleted(name=name) if name.kind is PolicyKind.PAUSE:
                del self.ends_ms[name.key]
            case PolicyDeleted(name=name) if name.kind is PolicyKind.CORDON:
                self.cordoned.remove(name.key)
            case _:
                pass

    def hold_up(self, task_type: str) -> bool:
        """Whether nothing of a type may begin."""
        return any(
            not pattern or pattern == task_type or (pattern.endswith("*") and task_type.startswith(pattern[:-1]))
            for pattern in self.ends_ms
        )

    def nothing_is_overdue(self, date_ms: float) -> None:
        """No pause goes on after its time."""
        assert not [pattern for pattern, end_ms in self.ends_ms.items() if end_ms <= date_ms], "a pause should have ended"
