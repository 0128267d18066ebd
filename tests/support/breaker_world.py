"""A fleet of agents that fail as they are told."""

from collections.abc import Sequence
from typing import Any

from coordinator.core.breaker_rules import BreakerRules
from coordinator.core.breakers import Breaker, BreakerState
from coordinator.core.model import Settings
from coordinator.core.reports import Result
from tests.support.core_world import FAILED, CoreWorld

FLEET = ("ann", "bob")


class BreakerWorld(CoreWorld):
    """Agents of one slot, so that who is idle is given the next task."""

    def __init__(self, **rules: Any) -> None:
        super().__init__(settings=Settings(breakers=BreakerRules(**rules)), jitter=0.0)
        self.serial = 0

    def fleet(self, *names: str, types: Sequence[str] = ("work",), capacity: int = 1) -> None:
        """These agents, or the usual two, say Hello and are ready."""
        for name in names or FLEET:
            self.join(name, types, capacity=capacity)

    def run_at(self, name: str, result: Result, task_type: str = "work", **options: object) -> str:
        """A task that only this agent may have runs there, and comes to `result`; it isn't tried again."""
        self.serial += 1
        task_id = f"{name}-{self.serial}"
        others = [one for one in self.scheduler.load.agents.values() if one.name != name and one.session]
        limits = {one.name: one.ready_limit for one in others}
        for one in others:
            self.ready(one.name, 0)
        self.submit(task_id, task_type=task_type, max_retries=0, **options)
        assert task_id in self.running(name), f"{name} isn't given it"
        self.finish(name, task_id, result)
        for other, limit in limits.items():
            self.ready(other, limit)
        return task_id

    def break_down(self, name: str, task_type: str = "work", times: int = 5) -> None:
        """So many tasks of a type fail at an agent, one after the other."""
        for _ in range(times):
            self.run_at(name, FAILED, task_type)

    def state(self, name: str, key: str = "work") -> BreakerState:
        """How an agent's breaker is; one that isn't there is closed."""
        breaker = self.scheduler.breakers.by_agent.get(name, {}).get(key)
        return BreakerState.CLOSED if breaker is None else breaker.state

    def breaker(self, name: str, key: str = "work") -> Breaker:
        """An agent's breaker, which must be there."""
        return self.scheduler.breakers.by_agent[name][key]

    def who_gets(self, *task_ids: str, **options: object) -> list[str]:
        """Submits tasks, and answers which agents they were given to; an empty name for one that waits."""
        for task_id in task_ids:
            self.submit(task_id, **options)
        return [self.task(task_id).agent for task_id in task_ids]
