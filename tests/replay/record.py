"""Records a journal, a snapshot and records of the present format: `python -m tests.replay.record NAME`.

To be run when something new can be in them, which `test_recordings` says. A recording is never made again: it stands for what is in
somebody's store.
"""

import sys
from typing import Any

from muster.v1 import common_pb2

from coordinator.core.effects import TaskEnded
from coordinator.core.events import AnyEvent, Commit, NamespaceCreated, NamespaceDeleted
from coordinator.core.model import Failure, FailureKind, RetryPolicy, Settings, TaskState, Usage
from coordinator.core.policies import (
    BreakerPolicy,
    ConcurrencyLimitPolicy,
    CordonPolicy,
    NamespaceLimitsPolicy,
    PausePolicy,
    PolicyKind,
    PolicyName,
    RateLimitPolicy,
    RetryDefaultsPolicy,
    WebhookPolicy,
    WeightPolicy,
    WhenFull,
)
from coordinator.core.reports import Failed, Stopped, Success, checkpoint, chunk
from coordinator.core.state import State
from coordinator.core.webhooks import EVERY_TYPE
from coordinator.journal.codec import encode, record_out, slim_record
from coordinator.ports import SnapshotNamespace
from tests.replay.recordings import FOLDER, Recording, record_said, said
from tests.support.core_world import FAILED_FOR_GOOD, FIRST_DATE_MS, GIVEN_BACK, NAMESPACE, CoreWorld, spec_of

EMPTY = "empty"
SETTINGS = Settings(retry=RetryPolicy(max_retries=2, initial_backoff_s=0.25, max_backoff_s=30.0, multiplier=3.0, max_crashes=1))
LIMITED = Failed(
    Failure(FailureKind.RATE_LIMITED, "slow down", "RateLimited", "a trace", retry_after_s=1.5),
    (Usage("large", 10, 20, 1), Usage("small", 1, 2, 3)),
)
DONE = Success(common_pb2.Outcome(success=common_pb2.Success(payload=b"an answer", content_type="text/plain")).SerializeToString())


def chapter(world: CoreWorld, name: str) -> None:
    """Something of every kind, with tasks named after the chapter; some of each kind are left live."""
    for one in ("completes", "fails", "retries", "given-back", "cancelled", "stopped", "crashes", "undelivered", "runs", "stopping"):
        options = {"max_retries": 5, "run_timeout_s": 600.5} if one == "retries" else {}
        world.submit(spec_of(f"{name}-{one}", "work", defaults=SETTINGS.retry, payload=one.encode(), priority=3, **options))
    for number in range(5):
        world.submit(spec_of(f"{name}-waits-{number}", "other", defaults=SETTINGS.retry, progress_timeout_s=7.25 if number else None))
    world.cancel(f"{name}-waits-4", "not needed")
    for end, labels in (("waits", {"team": "red", "tier": "1"}), ("cancelled", {"team": "blue"})):
        world.submit(spec_of(f"{name}-labelled-{end}", "other", defaults=SETTINGS.retry, labels=labels, parent=f"{name}-runs"))
    world.cancel(f"{name}-labelled-cancelled")
    world.submit(spec_of(f"{name}-own-policy", "other", defaults=SETTINGS.retry, max_retries=9, max_crashes=8))
    world.set_policy(RetryDefaultsPolicy("typed", 7, 0.5, 20.0, 1.5, 2))
    for number, max_retries in enumerate((None, 4)):
        defaults = world.scheduler.type_retries["typed"]
        world.submit(spec_of(f"{name}-typed-{number}", "typed", defaults=defaults, max_retries=max_retries))
    timed(world, name)
    for one in ("completes", "fails", "retries", "given-back", "stopped", "crashes", "runs", "stopping"):
        world.acknowledge("ann", f"{name}-{one}")
    world.advance(0.1)  # which journals the acknowledgements
    runs = world.task(f"{name}-runs")
    agent = world.agent("ann")
    for sequence, data in enumerate((b"first", b"second")):
        checkpoint(world.scheduler, agent, runs.spec.task_id, runs.fence, sequence, data, world.now)
        chunk(world.scheduler, agent, runs.spec.task_id, runs.fence, 10 * sequence, data, world.now)
        world.commit()
    world.cancel(f"{name}-cancelled-when-ready", "too late")
    world.finish("ann", f"{name}-completes", DONE)
    world.finish("ann", f"{name}-fails", FAILED_FOR_GOOD)
    world.finish("ann", f"{name}-retries", LIMITED)
    world.cancel(f"{name}-stopped", "enough")
    world.cancel(f"{name}-stopping", "enough, too")
    world.finish("ann", f"{name}-stopped", Stopped("as asked"))
    world.cancel(f"{name}-cancelled", "while it ran")
    world.ready("ann", 0)  # so that what is given back stays
    world.finish("ann", f"{name}-given-back", GIVEN_BACK)


def hooks(world: CoreWorld, name: str) -> None:
    """Ends that webhooks are told of: some are delivered, some are given up, some are left pending."""
    hook = common_pb2.Webhook(url="https://own.example/hook", states=[common_pb2.TASK_STATE_FAILED, common_pb2.TASK_STATE_CANCELLED])
    for task_type in ("hooked", EVERY_TYPE):
        world.set_policy(WebhookPolicy(task_type, f"https://{name}.example/", frozenset({TaskState.FAILED}), ("whsec_" + "a" * 32,)))
    world.connect("hal", ["hooked"])
    world.ready("hal", 10)
    for one in ("fails", "also-fails", "completes"):
        world.submit(spec_of(f"{name}-hook-{one}", "hooked", defaults=SETTINGS.retry, webhook=hook, labels={"team": "red"}))
    world.finish("hal", f"{name}-hook-completes", DONE)
    for one in ("fails", "also-fails"):
        world.finish("hal", f"{name}-hook-{one}", FAILED_FOR_GOOD)
    first = world.scheduler.state.deliveries.next_number - 6
    world.settle(first)
    world.settle(first + 1)
    world.settle(first + 2, "it was gone")
    world.settle(first + 5, "nobody was there")
    world.submit(spec_of(f"{name}-hook-waits", "nobody-can", defaults=SETTINGS.retry, webhook=hook))
    world.submit(spec_of(f"{name}-hook-cancelled", "nobody-can", defaults=SETTINGS.retry, webhook=hook))
    world.cancel(f"{name}-hook-cancelled", "not needed")
    for task_type in ("hooked", EVERY_TYPE):
        world.delete_policy(PolicyName(PolicyKind.WEBHOOK, task_type)) if name == "two" else None


def pauses(world: CoreWorld, name: str) -> None:
    """Types that are paused and agents that are cordoned: some stay so, some go on, and one by itself."""
    for policy in (
        PausePolicy(f"{name}-paused*", "a reason", 3_600_000),
        PausePolicy(f"{name}-lifted"),
        PausePolicy(f"{name}-short", "", 20),
    ):
        world.set_policy(policy)
    for agent in ("stays", "goes"):
        world.set_policy(CordonPolicy(f"{name}-{agent}", "a new disk"))
    world.submit(spec_of(f"{name}-held-up", f"{name}-paused-1", defaults=SETTINGS.retry))
    world.advance(0.05)
    world.delete_policy(PolicyName(PolicyKind.PAUSE, f"{name}-lifted"))
    world.delete_policy(PolicyName(PolicyKind.CORDON, f"{name}-goes"))


def breakers(world: CoreWorld, name: str) -> None:
    """When breakers open: some policies stay, some are deleted. Breakers themselves are of no concern to the journal."""
    world.set_policy(BreakerPolicy(f"{name}-all", 3, 0.25, 10, 30.5, 5.25, 60.0, 0.75))
    world.set_policy(BreakerPolicy(f"{name}-off*", consecutive_failures=0, failure_rate=0.0))
    world.set_policy(BreakerPolicy(f"{name}-deleted", open_s=1.0))
    world.delete_policy(PolicyName(PolicyKind.BREAKER, f"{name}-deleted"))


def opening() -> list[tuple[str, AnyEvent]]:
    """Namespaces come, and some go: of the one the store still holds records."""
    come: list[tuple[str, AnyEvent]] = [(name, NamespaceCreated()) for name in (NAMESPACE, EMPTY, "gone", "going")]
    return [
        *come,
        ("gone", NamespaceDeleted(purged=False)),
        ("going", NamespaceDeleted(purged=False)),
        ("gone", NamespaceDeleted(purged=True)),
    ]


def timed(world: CoreWorld, name: str) -> None:
    """Tasks with dates; those of a twentieth of a second come before the chapter is over."""
    dates: dict[str, dict[str, Any]] = {
        "delayed": {"delay_s": 600, "deadline_s": 900},
        "dated": {"not_before_ms": world.date_ms + 600_000},
        "ready": {"delay_s": 0.05, "queue_timeout_s": 600},
        "cancelled-when-ready": {"delay_s": 0.05},
        "stale": {"queue_timeout_s": 0.05},
        "late": {"deadline_s": 0.05},
    }
    for one, options in dates.items():
        world.submit(spec_of(f"{name}-{one}", "other", defaults=SETTINGS.retry, **options))


def story() -> tuple[CoreWorld, dict[str, object]]:
    """Two chapters, a takeover in the first, and a snapshot that is begun between them and finished in the second."""
    world = CoreWorld(settings=SETTINGS)
    world.journal.append(encode(Commit(1, world.epoch, FIRST_DATE_MS, opening()), SETTINGS.retry))
    world.join("bob", ["long"])
    world.submit(spec_of("long", "long", defaults=SETTINGS.retry))
    for _ in range(40):  # its history loses its middle
        world.finish("bob", "long", GIVEN_BACK)
    world.lose("bob")
    world.advance(SETTINGS.session_grace_s + 1)
    world.join("ann", ["work"], capacity=10)
    chapter(world, "one")
    world.crash()
    world.connect(
        "ann", ["work"], capacity=10, in_flight={"one-runs": world.task("one-runs").fence, "one-stopping": world.task("one-stopping").fence}
    )
    world.advance(3)
    world.reprioritise("one-waits-1", 1, "it can wait")
    world.redrive("one-fails", "mended")
    for key in ("kept", "deleted"):
        world.set_policy(WeightPolicy(key, 2.5))
    hooks(world, "one")
    assert world.retry(max(world.scheduler.state.deliveries.given_up))
    world.set_policy(ConcurrencyLimitPolicy("user:*", "", 2, WhenFull.CANCEL_OLDEST))
    world.set_policy(ConcurrencyLimitPolicy("", "limited", 1))
    world.set_policy(RateLimitPolicy("api", "", 2, 1500))
    world.set_policy(RateLimitPolicy("", "limited", 3, 60_000))
    world.join("lim", ["limited"])
    for number in range(4):
        world.submit(spec_of(f"limited-{number}", "limited", defaults=SETTINGS.retry, concurrency_key="user:1", rate_key="api"))
        world.cancel("limited-0", "to go on")
        if number == 1:
            world.finish("lim", "limited-0", DONE)
    pauses(world, "one")
    breakers(world, "one")
    world.begin_snapshot(others=[SnapshotNamespace(EMPTY, FIRST_DATE_MS, 1), SnapshotNamespace("going", 0, 0, deleted=True)])
    world.go_on_with_snapshot(3)
    world.cancel("one-fails", "not now")
    world.set_policy(WeightPolicy("late", 0.5))
    world.set_policy(NamespaceLimitsPolicy(1000, 10**6, 3600.5, 100, 10**7, 10**5, 10**8))
    world.delete_policy(PolicyName(PolicyKind.WEIGHT, "deleted"))
    world.ready("ann", 10)
    chapter(world, "two")
    hooks(world, "two")
    pauses(world, "two")
    breakers(world, "two")
    while world.go_on_with_snapshot(3):
        pass
    for name in ("two-crashes", "two-undelivered"):
        assert world.task(name).state.name == "RUNNING"
    world.connect("ann", ["work"], capacity=10, in_flight={name: world.task(name).fence for name in world.running("ann")[:3]})
    for name in world.running("ann"):  # of the first chapter, some have been through a lot
        if name.startswith("one-"):
            world.finish("ann", name, Success(DONE.outcome, (Usage("large", 5, 6, 7),)))
    world.cancel("one-crashes", "it was enough")
    world.cancel("long", "it was enough")
    world.reprioritise("two-waits-0", 4, "it is urgent")
    world.reprioritise("two-waits-1", 4, "it is urgent")
    world.cancel("two-waits-1", "it was enough")
    world.submit(spec_of("spent", "spending", defaults=SETTINGS.retry))
    world.join("cleo", ["spending"])
    world.finish("cleo", "spent", Failed(Failure(FailureKind.APPLICATION, "too dear", non_retryable=True), LIMITED.usage))
    world.redrive("spent", "there is more", priority=4)
    world.redrive("long", "it wasn't enough")
    assert world.snapshot is not None
    namespaces = {NAMESPACE: said(world.scheduler.state), EMPTY: said(State())}
    return world, {"snapshot_sequence": world.snapshot[0], "namespaces": namespaces}


def record() -> Recording:
    """The story as files."""
    world, expected = story()
    assert world.snapshot is not None
    records = [record_out(effect.task) for effect in world.effects if isinstance(effect, TaskEnded)]
    records += [slim_record(one) for one in records[:2]]
    return Recording(world.journal, world.snapshot[1], records, expected | {"records": [record_said(one) for one in records]})


if __name__ == "__main__":
    record().write(FOLDER / sys.argv[1])
