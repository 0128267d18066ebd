"""What the core's steps cost beside 100,000 lanes, fairness keys, delayed or cancelled tasks, or 1,000 agents that all differ.

Two shapes are paused and resumed meanwhile: a type with 100,000 lanes, and one of two types that have as many limited queues together.

python -m benchmarks.scale [--count 100000]

A cycle finishes a task, places the next one, and submits another in its place. "Worst" is the longest single call of all, filling included.
No step may scan what waits: a cycle at 100,000 costs about what it costs at 1,000, and no call takes 50 ms.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from muster.v1 import common_pb2

from coordinator.core.effects import Assign
from coordinator.core.model import Capability, Failure, FailureKind, Needs, Now, Operator, RetryPolicy, Scheduling, Selector, Settings, Spec
from coordinator.core.placement import place
from coordinator.core.policies import ConcurrencyLimitPolicy, PausePolicy, delete_policy, set_policy
from coordinator.core.reports import Failed, Result, Success, finish
from coordinator.core.scheduler import Scheduler
from coordinator.core.sessions import Hello, hello, ready
from coordinator.core.submits import cancel, submit
from coordinator.core.ticks import tick

SHALLOW = 1_000
CYCLES = 20_000
CAPACITY = 100
BEGIN_MS = 1_700_000_000_000
RETRY = RetryPolicy(max_retries=100, initial_backoff_s=3600.0, max_backoff_s=7200.0)
_clock = time.process_time  # of this process: others on the machine must not show as stalls


@dataclass
class Bench:
    """A scheduler whose every call is timed."""

    scheduler: Scheduler = field(default_factory=lambda: Scheduler(settings=Settings(), epoch=1, jitter=_spread().__next__))
    now: Now = field(default_factory=lambda: Now(1000.0, BEGIN_MS))
    running: list[Assign] = field(default_factory=list)
    worst_s: float = 0.0
    worst_what: str = ""
    numbers: Iterator[int] = field(default_factory=count)

    def timed(self, what: str, call: Callable[[], object]) -> None:
        """Calls, places what became ready, and takes what was decided, as a shard does."""
        begin_s = _clock()
        call()
        if self.scheduler.awake:
            place(self.scheduler, self.now)
        took_s = _clock() - begin_s
        if took_s > self.worst_s:
            self.worst_s, self.worst_what = took_s, what
        _, effects, _ = self.scheduler.take()
        self.running += [effect for effect in effects if isinstance(effect, Assign)]
        for task in list(self.scheduler.state.ended.values()):
            self.scheduler.state.settle(task)

    def connect(self, name: str, capabilities: list[str], capacity: int) -> None:
        """An agent that offers these."""

        def call() -> None:
            offered = dict.fromkeys(capabilities, Capability())
            hello(self.scheduler, f"session-{name}", Hello(name, "nonce", offered, capacity, (), {"zone": "z"}), self.now)
            ready(self.scheduler, self.scheduler.load.agents[name], capacity)

        self.timed("hello", call)

    def submit(self, task_type: str = "work", *, needs: Needs | None = None, key: str = "", concurrency_key: str = "") -> str:
        """One task. Answers its id."""
        task_id = f"task-{next(self.numbers)}"
        request = common_pb2.TaskSpec(task_id=task_id, task_type=task_type).SerializeToString()
        spec = Spec(
            task_id, task_type, 2, request, RETRY, needs=needs, scheduling=Scheduling(fairness_key=key, concurrency_key=concurrency_key)
        )
        self.timed("submit", lambda: submit(self.scheduler, spec, self.now))
        return task_id

    def finish(self, result: Result) -> None:
        """The attempt that has run longest is over."""
        effect = self.running.pop(0)
        agent = self.scheduler.load.by_session[effect.session]
        self.timed("finish", lambda: finish(self.scheduler, agent, effect.task_id, effect.fence, result, self.now))

    def pause_and_resume(self, task_type: str) -> None:
        """Pauses a type, and resumes it: each until it is through."""
        pause = PausePolicy(task_type)
        for what, call in (
            ("pause", lambda: set_policy(self.scheduler, pause, self.now)),
            ("resume", lambda: delete_policy(self.scheduler, pause.name, self.now)),
        ):
            self.timed(what, call)
            while self.scheduler.pauses.moves:
                self.timed(what, lambda: tick(self.scheduler, self.now))

    def tick(self) -> None:
        """Half a second passes."""
        self.now = Now(self.now.mono_s + 0.01, self.now.date_ms + 10)
        self.timed("tick", lambda: tick(self.scheduler, self.now))


Fill = Callable[[Bench, int], Callable[[int], None]]
"""Fills a bench with so much, and answers what submits the next task of a cycle."""


def lanes(bench: Bench, number: int) -> Callable[[int], None]:
    """As many kinds of needs, which the one agent all meets."""

    def one(turn: int) -> None:
        bench.submit(needs=Needs("work", (Selector("zone", Operator.IN, ("z", f"z{turn}")),)))

    for turn in range(number):
        one(turn)
    return lambda turn: one(turn % number)


def keys(bench: Bench, number: int) -> Callable[[int], None]:
    """As many fairness keys in one lane."""
    for turn in range(number):
        bench.submit(key=f"key-{turn}")
    return lambda turn: _discard(bench.submit(key=f"key-{turn % number}"))


def delayed(bench: Bench, number: int) -> Callable[[int], None]:
    """As many tasks in backoff."""
    for _ in range(number):
        bench.submit()
        bench.finish(Failed(Failure(FailureKind.APPLICATION, "not yet")))
    for _ in range(CAPACITY):
        bench.submit()
    return lambda _turn: _discard(bench.submit())


def cancelled(bench: Bench, number: int) -> Callable[[int], None]:
    """As many tasks that waited, all cancelled but for the last hundred."""
    waiting = [bench.submit() for _ in range(number + 2 * CAPACITY)]
    for task_id in waiting[CAPACITY : CAPACITY + number]:
        bench.timed("cancel", lambda task_id=task_id: cancel(bench.scheduler, task_id, "", bench.now))  # type: ignore[misc]
    return lambda _turn: _discard(bench.submit())


def agents(bench: Bench, number: int) -> Callable[[int], None]:
    """A hundredth as many agents, each with capabilities of its own, beside one that all share."""
    for turn in range(number // 100):
        bench.connect(f"agent-{turn}", ["work", f"only-{turn}"], 1)
    for _ in range(2 * CAPACITY + number // 100):
        bench.submit()
    return lambda _turn: _discard(bench.submit())


def paused(bench: Bench, number: int) -> Callable[[int], None]:
    """As many lanes, which were paused meanwhile."""
    more = lanes(bench, number)
    bench.pause_and_resume("work")
    return more


def pooled(bench: Bench, number: int) -> Callable[[int], None]:
    """As many concurrency keys under a limit, half of them of another type, which was paused meanwhile."""
    set_policy(bench.scheduler, ConcurrencyLimitPolicy("key-*", "", 1), bench.now)
    bench.connect("agent", ["work", "other"], CAPACITY)

    def one(turn: int) -> None:
        bench.submit("other" if turn % 2 else "work", concurrency_key=f"key-{turn}")

    for turn in range(number):
        one(turn)
    bench.pause_and_resume("other")
    return lambda turn: one(turn % number)


SHAPES: dict[str, Fill] = {
    "lanes": lanes,
    "keys": keys,
    "delayed": delayed,
    "cancelled": cancelled,
    "agents": agents,
    "paused": paused,
    "pooled": pooled,
}


def _discard(_: object) -> None:
    pass


def measure(fill: Fill, number: int) -> tuple[float, float, str]:
    """Cycles per second, and the longest call: seconds, and which."""
    bench = Bench()
    bench.connect("agent", ["work"], CAPACITY)
    gc.collect()
    gc.disable()  # the coordinator's collector doesn't look at what waits either
    more = fill(bench, number)
    begin_s = _clock()
    for cycle in range(CYCLES):
        bench.finish(Success(b""))
        more(cycle)
        if cycle % 100 == 0:
            bench.tick()
    rate = CYCLES / (_clock() - begin_s)
    gc.enable()
    return rate, bench.worst_s, bench.worst_what


def _spread() -> Iterator[float]:
    for number in count():
        yield number * 0.618 % 1.0


def main() -> None:
    """Prints a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="how much there is of each (default %(default)s)")
    parser.add_argument("shapes", nargs="*", choices=[[], *SHAPES], help="only these")
    options = parser.parse_args()
    shapes = {name: SHAPES[name] for name in options.shapes or SHAPES}
    print(f"{'shape':10} {'cycles/s at 1,000':>18} {f'at {options.count:,}':>12} {'ratio':>6} {'worst call':>11}")
    for name, fill in shapes.items():
        shallow, _, _ = measure(fill, SHALLOW)
        deep, worst_s, what = measure(fill, options.count)
        print(f"{name:10} {shallow:18,.0f} {deep:12,.0f} {deep / shallow:6.2f} {1000 * worst_s:8.1f} ms  {what}")


if __name__ == "__main__":
    main()
