"""Takes submitted tasks in, once each (G6): what is in memory is known, ids that may have ended before are looked up in the store."""

from collections.abc import Sequence

from coordinator.convert import same_as_recorded, same_task
from coordinator.core.model import Spec, Task
from coordinator.core.submits import Refused, submit
from coordinator.core.timing import Misfit
from coordinator.engine.namespace import Namespace
from coordinator.engine.shard import Shard
from coordinator.engine.sinks import ClientSink
from coordinator.errors import AlreadyExists, InvalidRequest, LimitReached, MusterError


class Duplicate:
    """The very task was submitted before: nothing changed."""


DUPLICATE = Duplicate()
Verdict = MusterError | Duplicate
Exceptions = list[tuple[int, Verdict]]
"""What was not simply accepted, by place in the batch."""


def take_in_new(shard: Shard, namespace: Namespace, specs: Sequence[Spec | MusterError], sink: ClientSink | None) -> Exceptions:
    """Takes in tasks whose ids no record can have. An error among `specs` is answered at its place."""
    now = shard.now()
    exceptions: Exceptions = []
    scheduler = namespace.scheduler
    full = shard.room.refusal()
    for index, spec in enumerate(specs):
        if isinstance(spec, MusterError):
            exceptions.append((index, spec))
            continue
        if full is not None and scheduler.state.find(spec.task_id) is None:
            exceptions.append((index, full))
            continue
        task = submit(scheduler, spec, now)
        if isinstance(task, Misfit):
            exceptions.append((index, InvalidRequest(task.message, field=task.field)))
        elif not isinstance(task, Task):
            exceptions.append((index, refusal(namespace, task, spec)))
        elif task.spec is spec:
            if sink is not None:
                namespace.wait_for(spec.task_id, sink)
        else:
            exceptions.append((index, _known(shard, namespace, task, spec, sink)))
    shard.decided(namespace, now)
    return exceptions


async def take_in(shard: Shard, namespace: Namespace, specs: Sequence[Spec | MusterError], sink: ClientSink | None) -> Exceptions:
    """Takes in tasks that may have been submitted before, in this coordinator's life or another's.

    Raises:
        Unavailable: the store can't be asked.
    """
    state = namespace.scheduler.state
    # Also those that have just ended: an older look-up may be what keeps them in memory, and be over before this one.
    unknown = [spec.task_id for spec in specs if isinstance(spec, Spec) and spec.task_id not in state.tasks]
    if not unknown:
        return take_in_new(shard, namespace, specs, sink)
    with shard.records.open():
        records = dict(zip(unknown, await shard.records.get(namespace.name, unknown), strict=True))
        shard.require_current(namespace)
        judged: list[Spec | MusterError] = []
        duplicates: Exceptions = []
        for index, spec in enumerate(specs):
            record = records.get(spec.task_id) if isinstance(spec, Spec) else None
            if record is None or isinstance(spec, MusterError) or state.find(spec.task_id) is not None:
                judged.append(spec)
                continue
            verdict = _recorded(record, spec, sink)
            judged.append(verdict if isinstance(verdict, MusterError) else _Known())
            if isinstance(verdict, Duplicate):
                duplicates.append((index, verdict))
        exceptions = take_in_new(shard, namespace, judged, sink)
    return sorted([entry for entry in exceptions if not isinstance(entry[1], _Known)] + duplicates, key=lambda entry: entry[0])


class _Known(MusterError):
    """Holds the place of a duplicate in a batch."""

    def __init__(self) -> None:
        super().__init__("")


def _known(shard: Shard, namespace: Namespace, task: Task, spec: Spec, sink: ClientSink | None) -> Verdict:
    if not same_task(task.spec.request, spec.request):
        return _conflict(spec)
    if sink is not None:
        if task.ended_ms:
            shard.when_durable(lambda: sink.result(task))
        else:
            namespace.wait_for(spec.task_id, sink)
    return DUPLICATE


def _recorded(record: bytes, spec: Spec, sink: ClientSink | None) -> Verdict:
    if not same_as_recorded(record, spec.request):
        return _conflict(spec)
    if sink is not None:
        sink.recorded(spec.task_id, record)
    return DUPLICATE


def _conflict(spec: Spec) -> AlreadyExists:
    return AlreadyExists(f"task {spec.task_id} exists with another content: choose another id", metadata={"task_id": spec.task_id})


def refusal(namespace: Namespace, refused: Refused, spec: Spec) -> LimitReached:
    """The error for a task that there is no room for."""
    scheduler, state = namespace.scheduler, namespace.scheduler.state
    if refused is Refused.KEY_FULL:
        key = spec.scheduling.concurrency_key
        live, allowed = scheduler.limits.use_of(key)
        return LimitReached(
            f"concurrency key {key} has {live} live tasks of the {allowed} that may run, and its limit refuses more: "
            "submit again when one has ended, or set when_full to WAIT",
            limit="concurrency_key",
            used=live,
            allowed=allowed,
            retry_after_s=None,
            reason="CONCURRENCY_LIMIT",
        )
    if refused is Refused.WEBHOOKS_FULL:
        used = state.deliveries.of_hook.get(None, 0)
        return LimitReached(
            f"{used} webhooks of tasks of namespace {namespace.name} wait to be delivered, "
            f"of {scheduler.settings.max_pending_webhooks} allowed: submit again when some have been, or without a webhook",
            limit="max_pending_webhooks",
            used=used,
            allowed=scheduler.settings.max_pending_webhooks,
            retry_after_s=10.0,
        )
    if refused is Refused.QUEUE_FULL:
        limit, what, used, allowed = "max_live_tasks", "live tasks", len(state.tasks), scheduler.max_live_tasks
    else:
        limit, what, used, allowed = "max_live_bytes", "bytes of live tasks", state.bytes, scheduler.max_live_bytes
    return LimitReached(
        f"namespace {namespace.name} holds {used} {what} of {allowed} allowed: submit again when some have ended",
        limit=limit,
        used=used,
        allowed=allowed,
        retry_after_s=1.0,
    )
