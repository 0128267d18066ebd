"""Watches each decision as it is made: nobody is given a task that a breaker keeps from it, but for one probe."""

from coordinator.core.breakers import BreakerState
from coordinator.core.events import Assigned, AttemptFailed, Completed
from coordinator.engine.shard import Shard


class WatchedShard(Shard):
    """A shard whose schedulers are watched."""

    def __init__(self, *, sim, **arguments):
        super().__init__(**arguments)
        self._sim = sim

    def _new_namespace(self, name, created_ms, state):
        namespace = super()._new_namespace(name, created_ms, state)
        scheduler, apply = namespace.scheduler, namespace.scheduler.apply

        def watched(event, now):
            if isinstance(event, Assigned):
                self._is_let_through(scheduler, event, now)
            elif isinstance(event, Completed | AttemptFailed):
                self._may_be_a_probe(scheduler, event)
            return apply(event, now)

        scheduler.apply = watched
        return namespace

    def _is_let_through(self, scheduler, event, now):
        for breaker in self._concerned(scheduler, event.agent, event.number):
            assert breaker.state is not BreakerState.OPEN, f"{event.agent} is given a task, and {breaker}"
            if breaker.state is BreakerState.HALF_OPEN:
                assert breaker.probe is None, f"{event.agent} is given a task beside the probe of {breaker}"
                self._sim.count("probe")
            elif breaker.state is BreakerState.TOLERATED:
                self._sim.count("tolerated")
        for breaker in scheduler.breakers.all():
            if breaker.state in (BreakerState.OPEN, BreakerState.TOLERATED):
                assert now.mono_s < breaker.due_s + 2, f"{breaker} should have been looked at"

    def _may_be_a_probe(self, scheduler, event):
        for breaker in scheduler.breakers.all():
            if breaker.probe is not None and breaker.probe.task.number == event.number:
                self._sim.count("probe succeeded" if isinstance(event, Completed) else "probe failed")

    @staticmethod
    def _concerned(scheduler, agent, number):
        own = scheduler.breakers.by_agent.get(agent, {})
        task_type = scheduler.state.by_number[number].spec.task_type
        return [own[key] for key in (task_type, "") if key in own]
