"""What a scheduler keeps of the past stays bounded, however long it runs: every container that can be reached is counted."""

from coordinator.core import fairness, statistics, task_index
from coordinator.core.model import Settings
from coordinator.core.policies import ConcurrencyLimitPolicy, RateLimitPolicy
from tests.soak.census import count
from tests.support.core_world import FAILED, CoreWorld

TASKS_A_DAY = 60


def day(world, number):
    """Tasks, all over a day, each of a type, a fairness key, labels and limits that come once and never again."""
    for turn in range(TASKS_A_DAY):
        name = f"{number}-{turn}"
        keys = {"fairness_key": f"key-{name}", "concurrency_key": f"user-{name}", "rate_key": f"rate-{name}", "sticky_key": f"key-{turn}"}
        world.submit(f"run-{name}", max_retries=0, priority=1 + turn % 4, labels={"day": name}, **keys)
        world.submit(f"never-{name}", task_type=f"type-{name}", delay_s=1, queue_timeout_s=10)
        world.finish("ann", f"run-{name}", *([FAILED] if turn % 3 == 0 else []))
        world.advance(24 * 3600 / TASKS_A_DAY, ticks=3)
        for task in list(world.scheduler.state.ended.values()):
            world.scheduler.state.settle(task)


def test_a_week_leaves_no_more_than_a_day(monkeypatch):
    monkeypatch.setattr(statistics, "MAX_HISTORIES", 20)
    monkeypatch.setattr(fairness, "MAX_IDLE", 20)
    monkeypatch.setattr(task_index, "_MIN_BLOCKS", 2)
    monkeypatch.setattr(task_index, "BLOCK_BITS", 4)
    world = CoreWorld(settings=Settings(max_sticky_keys=20))
    world.set_policy(ConcurrencyLimitPolicy("user-*", "", 1))
    world.set_policy(RateLimitPolicy("rate-*", "", 1, 3_600_000))
    world.join("ann")
    kept = []
    for number in range(4):
        day(world, number)
        kept.append(count(world.scheduler, package="coordinator"))
    more = {name: (kept[1].get(name, 0), total) for name, total in kept[-1].items() if total > 1.1 * kept[1].get(name, 0) + 20}
    assert kept[0]["Scheduler.sticky"] == 20
    assert not {name: counts for name, counts in more.items() if name not in ("Scheduler.events", "Scheduler.effects")}
