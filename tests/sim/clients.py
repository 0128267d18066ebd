"""Clients of a simulation: they submit, lose their sessions, send again, attach again, and wait for every result."""

from muster.v1 import common_pb2, task_pb2

from coordinator import convert
from coordinator.core import submits
from coordinator.engine.shard import DEFAULT_NAMESPACE
from coordinator.errors import MusterError
from tests.sim.receivers import BAD_URL, GOOD_URL

REFUSED = task_pb2.SUBMIT_VERDICT_REFUSED
ANSWER_WITHIN_S = 8.0


class SimClient:
    RESPONSE = task_pb2.SessionResponse
    namespace_name = "default"
    is_agent = False

    def __init__(self, *, sim, name, tasks):
        self.sim, self.name = sim, name
        self.unsent = dict(tasks)  # by id, in order
        self.sent = {}  # and not acknowledged
        self.acknowledged = {}  # and without a result
        self.results = {}
        self.tasks = dict(tasks)
        self.batch_id = 0
        self.wire = None
        sim.loop.call_later(sim.rng.random(), self._connect)
        sim.loop.call_later(1.0, self._submit)

    @property
    def is_done(self):
        return len(self.results) == len(self.tasks)

    # --- the session ---

    def _connect(self):
        coordinator = self.sim.coordinator_for(self)
        self.wire = coordinator.connect(self) if coordinator is not None else None
        if self.wire is None:
            self.sim.loop.call_later(self.sim.rng.uniform(0.1, 1.0), self._connect)
            return
        if self.sent:
            self._send(list(self.sent), first=False)
        if self.acknowledged:
            self.wire.send(task_pb2.SessionRequest(attach_task_ids=list(self.acknowledged)))

    def break_stream(self):
        if self.wire is not None:
            self.sim.count("session broken")
            self.wire.cut()
            self.ended(self.wire)

    def ended(self, wire):
        if wire is self.wire:
            self.wire = None
            self.sim.loop.call_later(self.sim.rng.uniform(0.05, 1.0), self._connect)

    def _send(self, ids, *, first):
        self.batch_id += 1
        self.wire.batches[self.batch_id] = ids
        batch = task_pb2.SubmitBatch(batch_id=self.batch_id, tasks=[self.tasks[one] for one in ids], first_send=first)
        self.wire.send(task_pb2.SessionRequest(submit=batch))
        self.sim.loop.call_later(ANSWER_WITHIN_S, self._unless_answered, self.wire, ids)

    def _unless_answered(self, wire, ids):
        if wire is self.wire and any(one in self.sent for one in ids):
            self.break_stream()

    def _submit(self):
        if not self.unsent:
            return
        self.sim.loop.call_later(self.sim.rng.choice([0.0, 0.1, 3.0, 15.0]), self._submit)
        if self.wire is None:
            return
        ids = list(self.unsent)[: self.sim.rng.randint(1, 6)]
        for one in ids:
            self.sent[one] = self.unsent.pop(one)
        self._send(ids, first=True)
        if self.sim.rng.random() < 0.2:
            self._send(ids, first=False)  # impatience
        if self.sim.rng.random() < 0.1:
            self.sim.loop.call_later(self.sim.rng.choice([0.0, 0.3, 5.0]), self._cancel, self.sim.rng.choice(ids))

    def received(self, wire, message):
        if wire is not self.wire:
            return
        for ack in message.submit_acks:
            refused = {exception.index for exception in ack.exceptions if exception.verdict == REFUSED}
            for index, one in enumerate(wire.batches[ack.batch_id]):
                if index in refused:
                    self.sim.loop.call_later(1.0, self._again, one)
                elif one in self.sent:
                    self.acknowledged[one] = self.sent.pop(one)
        for result in message.results:
            if result.HasField("refusal"):
                assert not wire.coordinator.owns_the_shard(), f"G1: {result.task_id} was acknowledged, and is gone"
                self.sim.count("asked one who lost its shard")
                self.sim.loop.call_soon(self.break_stream)
                continue
            content = (result.state, result.outcome.SerializeToString(deterministic=True))
            is_same = self.results.setdefault(result.task_id, content) == content
            assert is_same or self.sim.auditor.by_id[result.task_id].run > 1, "G2: another outcome of the same run"
            self.sent.pop(result.task_id, None)
            self.acknowledged.pop(result.task_id, None)

    def _again(self, one):
        if one in self.sent and self.wire is not None:
            self._send([one], first=False)
        elif one in self.sent:
            self.sim.loop.call_later(1.0, self._again, one)

    def _cancel(self, one):
        """A unary call, whose answer nobody reads."""
        coordinator = self.sim.coordinator_for(self)
        if coordinator is None or not coordinator.alive:
            return
        shard = coordinator.shard
        try:
            namespace = shard.namespace(DEFAULT_NAMESPACE)
            shard.require_store()
        except MusterError:
            return
        self.sim.count("cancel")
        now = shard.now()
        submits.cancel(namespace.scheduler, one, "asked for", now)
        shard.decided(namespace, now)


def task_of(task_id, rng):
    """A task as some client would submit it."""
    spec = common_pb2.TaskSpec(task_id=task_id, task_type=rng.choice(["a", "a", "b", "c"]), payload=task_id.encode())
    spec.priority = rng.choice([0, 0, 1, 2, 3, 4])
    if rng.random() < 0.3:
        spec.retry_policy.max_retries = rng.randint(0, 2)
    if rng.random() < 0.5:
        spec.run_timeout.CopyFrom(convert.duration(rng.choice([20, 60])))
    if rng.random() < 0.2:
        spec.delay.CopyFrom(convert.duration(rng.choice([0.05, 2, 30])))
    if rng.random() < 0.2:
        spec.queue_timeout.CopyFrom(convert.duration(rng.choice([0.3, 5, 40])))
    if rng.random() < 0.2:
        spec.deadline.CopyFrom(convert.duration(rng.choice([31, 35, 50])))
    if rng.random() < 0.5:
        spec.scheduling.fairness_key = rng.choice(["", "x", "y"])
        spec.scheduling.cost = rng.choice([0, 0.5, 4])
        spec.scheduling.slots = rng.choice([0, 1, 2])
        spec.scheduling.sticky_key = rng.choice(["", "u", "v"])
    if rng.random() < 0.5:
        spec.scheduling.concurrency_key = rng.choice(["", "c1", "c2"])
        spec.scheduling.rate_key = rng.choice(["", "r1", "r2"])
    if rng.random() < 0.3:
        spec.labels[rng.choice("xy")] = rng.choice("12")
        spec.parent_task_id = rng.choice(["", "a parent"])
    if rng.random() < 0.3:
        spec.webhook.url = rng.choice([GOOD_URL, BAD_URL])
        spec.webhook.states.extend(rng.choice([(), (common_pb2.TASK_STATE_FAILED, common_pb2.TASK_STATE_CANCELLED)]))
    return spec
