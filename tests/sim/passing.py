"""A namespace of a simulation that is made, used, deleted and made again under its name, with the same ids of tasks each time."""

from muster.v1 import agent_pb2, common_pb2, event_pb2

from coordinator.core.events import Assigned, Completed, NamespaceCreated, NamespaceDeleted, NamespaceEvent, Submitted
from coordinator.core.evolve import evolve, evolve_beside_tasks
from coordinator.core.model import ALL_ENDS
from coordinator.core.policies import WebhookPolicy, set_policy
from coordinator.core.state import State
from coordinator.core.submits import cancel
from coordinator.engine.deletion import delete_namespace
from coordinator.engine.intake import take_in_new
from coordinator.errors import MusterError
from tests.sim.receivers import BAD_URL
from tests.support.core_world import spec_of

PASSING = "passing"
TAKEN = (agent_pb2.RESULT_VERDICT_UNSPECIFIED, agent_pb2.RESULT_VERDICT_ACCEPTED, agent_pb2.RESULT_VERDICT_DUPLICATE)


class PassingAuditor:
    """What the journal says of it. Each one of the name is known by the date of its creation, which its tasks have as their payload."""

    def __init__(self, *, sim):
        self._sim = sim
        self.state = None  # of the one that there is
        self.payload = b""
        self.is_being_removed = False
        self._fences = {}  # by task id: the last one of any namespace of the name
        self._completed = set()  # task ids and fences
        self._specs = {}  # by number

    def read(self, event, date_ms):
        match event:
            case NamespaceCreated():
                assert self.state is None
                assert not self.is_being_removed, "it was made while something was left of the one before"
                if self.payload:
                    self._sim.count("namespace created anew")
                self.state, self.payload = State(), str(date_ms).encode()
                self._completed, self._specs = set(), {}
            case NamespaceDeleted(purged=False):
                self._sim.count("namespace deleted")
                self._sim.counts["namespace deleted with attempts under way"] += any(task.agent for task in self.state.tasks.values())
                self._sim.counts["webhook deleted with its namespace"] += len(self.state.deliveries.pending)
                self.state, self.is_being_removed = None, True
            case NamespaceDeleted():
                self._sim.count("namespace purged")
                assert self.is_being_removed
                self.is_being_removed = False
            case _:
                assert self.state is not None, f"{event} in a namespace that was deleted"
                self._read(event, date_ms)

    def _read(self, event, date_ms):
        if isinstance(event, NamespaceEvent):
            evolve_beside_tasks(self.state, event, date_ms)
            return
        match event:
            case Submitted():
                assert _payload_of(event.spec.request) == self.payload, "a task of another one was taken"
                self._specs[event.number] = event.spec
            case Assigned():
                task_id = self._specs[event.number].task_id
                assert event.fence > self._fences.get(task_id, 0), "G2: a fence grows, though its task's namespace was deleted in between"
                self._fences[task_id] = event.fence
            case Completed():
                task_id = self._specs[event.number].task_id
                self._completed.add((task_id, self._fences[task_id]))
        evolve(self.state, event, date_ms)

    def released(self, wire, message):
        """A coordinator tells the agent something."""
        for one in message.assign.assignments:
            if self.state is not None and wire.coordinator.owns_the_shard():
                assert one.task.payload == self.payload, "a task of another one was assigned"
        for ack in message.result_acks:
            verdicts = {exception.index: exception.verdict for exception in ack.exceptions}
            for index, (key, payload) in enumerate(wire.batches[ack.batch_id]):
                if verdicts.get(index, TAKEN[0]) in TAKEN:
                    assert payload != self.payload or key in self._completed, "a result was called taken, and isn't durable"
                    assert payload == self.payload or not wire.coordinator.owns_the_shard() or self.state is None, (
                        "a result of another one counted"
                    )
                elif payload != self.payload:
                    self._sim.count("result of a deleted namespace")

    def nothing_is_left(self):
        """Whether it was deleted and is removed; and if so, asserts that the store has no key of it."""
        if self.state is not None or self.is_being_removed:
            return False
        assert PASSING not in self._sim.shard_data.namespaces
        return True

    def check(self):
        """What is in the store is of the one that there is."""
        held = self._sim.shard_data.namespaces.get(PASSING)
        if self.state is not None and held is not None:
            for _, blob in held.records.values():
                payload = _payload_of(event_pb2.TaskRecord.FromString(blob).request)
                assert payload == self.payload, "the store has a task of another one"


class PassingNamespace:
    """Its operator and its client at once, with an agent of its own."""

    def __init__(self, *, sim):
        self.sim = sim
        self._is_ending = False
        self._serials = {}  # by namespace
        self.agent = PassingAgent(sim=sim)
        sim.loop.call_later(1.0, self._act)

    def end(self):
        """From now on it is only deleted."""
        self._is_ending = True

    def _act(self):
        sim, rng = self.sim, self.sim.rng
        sim.loop.call_later(rng.choice([0.1, 0.5, 1.0, 3.0]), self._act)
        sim.auditor.catch_up()
        sim.auditor.passing.check()
        coordinator = sim.coordinator_for(self)
        if coordinator is None:
            return
        shard = coordinator.shard
        try:
            shard.require_store()
            shard.require_served()
            if PASSING not in shard.namespaces and self._is_ending:
                return
            namespace = shard.create_namespace(PASSING)
        except MusterError:
            return
        if self._is_ending or rng.random() < 0.2:
            delete_namespace(shard, namespace)
        else:
            self._use(shard, namespace)

    def _use(self, shard, namespace):
        rng, now = self.sim.rng, shard.now()
        if rng.random() < 0.3:
            set_policy(namespace.scheduler, WebhookPolicy("", BAD_URL, ALL_ENDS, ()), now)
        first = self._serials.get(namespace.created_ms, 0)
        ids = [f"p{first + number}" for number in range(rng.randint(1, 4))]
        self._serials[namespace.created_ms] = first + len(ids)
        take_in_new(shard, namespace, [spec_of(one, payload=str(namespace.created_ms).encode()) for one in ids], None)
        if rng.random() < 0.3:
            cancel(namespace.scheduler, rng.choice(ids), "", now)
        shard.decided(namespace, now)


class PassingAgent:
    """It remembers what it ran in namespaces that are gone, and sends all results until they are answered, whatever it was told."""

    RESPONSE = agent_pb2.ConnectResponse
    namespace_name = PASSING
    is_agent = True
    name = "passing agent"

    def __init__(self, *, sim):
        self.sim = sim
        self.wire = None
        self._unanswered = {}  # by task id and fence: the payload
        self._batch_id = 0
        sim.loop.call_later(1.5, self._connect)

    def _connect(self):
        coordinator = self.sim.coordinator_for(self)
        self.wire = coordinator.connect(self) if coordinator is not None else None
        if self.wire is None:
            self.sim.loop.call_later(self.sim.rng.uniform(0.05, 1.0), self._connect)
            return
        hello = agent_pb2.Hello(
            agent_name=self.name,
            session_nonce=f"{self.sim.loop.time()}",
            capabilities=[agent_pb2.Capability(task_type="work")],
            max_concurrent_tasks=4,
            in_flight=[agent_pb2.InFlightAttempt(task_id=task_id, fence=fence) for task_id, fence in self._unanswered],
            protocol_version=1,
        )
        self.wire.send(agent_pb2.ConnectRequest(hello=hello))
        self.wire.send(agent_pb2.ConnectRequest(ready=agent_pb2.Ready(limit=4)))
        self._send_results()  # at once, and not only what it is told to keep

    def ended(self, wire):
        if wire is self.wire:
            self.wire = None
            self.sim.loop.call_later(self.sim.rng.uniform(0.05, 0.5), self._connect)

    def received(self, wire, message):
        if wire is not self.wire:
            return
        for one in message.assign.assignments:
            after_s = self.sim.rng.choice([0.0, 0.1, 1.0, 5.0])
            self.sim.loop.call_later(after_s, self._finish, (one.task.task_id, one.fence), one.task.payload)
        if message.assign.batch_id:
            wire.send(agent_pb2.ConnectRequest(acknowledged_batch_ids=[message.assign.batch_id]))
        for ack in message.result_acks:
            for key, _ in wire.batches[ack.batch_id]:
                self._unanswered.pop(key, None)

    def _finish(self, key, payload):
        self._unanswered[key] = payload
        self._send_results()

    def _send_results(self):
        if self.wire is None or not self._unanswered:
            return
        self._batch_id += 1
        self.wire.batches[self._batch_id] = list(self._unanswered.items())
        outcome = common_pb2.Outcome()
        outcome.success.payload = b"done"
        results = [agent_pb2.AttemptResult(task_id=task_id, fence=fence, outcome=outcome) for task_id, fence in self._unanswered]
        self.wire.send(agent_pb2.ConnectRequest(results=agent_pb2.ResultBatch(batch_id=self._batch_id, results=results)))


def _payload_of(request):
    return common_pb2.TaskSpec.FromString(request).payload
