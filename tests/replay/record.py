"""Records a journal, a snapshot and records of the present format: `python -m tests.replay.record NAME`.

To be run when something new can be in them, which `test_recordings` says. A recording is never made again: it stands for what is in
somebody's store.
"""

import sys

from muster.v1 import common_pb2

from coordinator.core.effects import TaskEnded
from coordinator.core.events import Commit, NamespaceCreated
from coordinator.core.model import Failure, FailureKind, RetryPolicy, Settings, Usage
from coordinator.core.policies import PolicyKind, PolicyName, WeightPolicy
from coordinator.core.reports import Failed, Stopped, Success, checkpoint, chunk
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
    world.submit(spec_of(f"{name}-own-policy", "other", defaults=SETTINGS.retry, max_retries=9, max_crashes=8))
    for one in ("completes", "fails", "retries", "given-back", "stopped", "crashes", "runs", "stopping"):
        world.acknowledge("ann", f"{name}-{one}")
    world.advance(0.1)  # which journals the acknowledgements
    runs = world.task(f"{name}-runs")
    agent = world.agent("ann")
    for sequence, data in enumerate((b"first", b"second")):
        checkpoint(world.scheduler, agent, runs.spec.task_id, runs.fence, sequence, data, world.now)
        chunk(world.scheduler, agent, runs.spec.task_id, runs.fence, 10 * sequence, data, world.now)
        world.commit()
    world.finish("ann", f"{name}-completes", DONE)
    world.finish("ann", f"{name}-fails", FAILED_FOR_GOOD)
    world.finish("ann", f"{name}-retries", LIMITED)
    world.cancel(f"{name}-stopped", "enough")
    world.cancel(f"{name}-stopping", "enough, too")
    world.finish("ann", f"{name}-stopped", Stopped("as asked"))
    world.cancel(f"{name}-cancelled", "while it ran")
    world.ready("ann", 0)  # so that what is given back stays
    world.finish("ann", f"{name}-given-back", GIVEN_BACK)


def story() -> tuple[CoreWorld, dict[str, object]]:
    """Two chapters, a takeover in the first, and a snapshot that is begun between them and finished in the second."""
    world = CoreWorld(settings=SETTINGS)
    world.journal.append(
        encode(Commit(1, world.epoch, FIRST_DATE_MS, [(NAMESPACE, NamespaceCreated()), (EMPTY, NamespaceCreated())]), SETTINGS.retry)
    )
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
    world.begin_snapshot(others=[SnapshotNamespace(EMPTY, FIRST_DATE_MS, 1)])
    world.go_on_with_snapshot(3)
    world.cancel("one-fails", "not now")
    world.set_policy(WeightPolicy("late", 0.5))
    world.delete_policy(PolicyName(PolicyKind.WEIGHT, "deleted"))
    world.ready("ann", 10)
    chapter(world, "two")
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
    namespaces = {NAMESPACE: said(world.scheduler.state), EMPTY: {"next_number": 1, "policies": {}, "tasks": {}}}
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
