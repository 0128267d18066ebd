"""Agents of a simulation: slow, forgetful, mortal, and often disconnected. They speak the protocol and keep to it."""

from dataclasses import dataclass

from muster.v1 import agent_pb2, common_pb2

from coordinator import convert

KEEP, CANCEL = agent_pb2.RECONCILE_VERDICT_KEEP, agent_pb2.RECONCILE_VERDICT_CANCEL
RESEND_S = 5.0
WELCOME_WITHIN_S = 4.0


@dataclass
class Work:
    """One attempt in an agent's hands."""

    fence: int
    steps: int = 0
    checkpoints: int = 0
    emitted: int = 0
    stopping: bool = False


class SimAgent:
    RESPONSE = agent_pb2.ConnectResponse
    namespace_name = "default"
    is_agent = True

    def __init__(self, *, sim, name, capabilities, capacity):
        self.sim, self.name, self.capabilities, self.capacity = sim, name, capabilities, capacity
        self.process = 0
        self.wire = None
        self.frozen_until_s = 0.0
        self.sick_until_s = 0.0
        self.ghosts = []  # what earlier processes ran when they died
        self._start()

    # --- a process's life ---

    def _start(self):
        self.is_away = False
        self.process += 1
        self.work = {}
        self.unanswered = {}  # (task id, fence) -> outcome
        self.batch_id = 0
        self.welcomed = False
        self._connect(self.process)
        self._later(self.sim.settings.renew_period_s, self._renew)

    def die(self, *, away_s):
        """kill -9; another process with the same name starts later."""
        if self.is_away:
            return
        self.sim.count("agent died")
        self.ghosts += [(task_id, work.fence) for task_id, work in self.work.items()]
        self.is_away = True
        self.process += 1
        if self.wire is not None:
            self.wire.cut()
        self.wire = None
        self.sim.loop.call_later(away_s, self._start)

    def break_stream(self):
        self.sim.count("stream broken")
        if self.wire is not None:
            self.wire.cut()
            self.ended(self.wire)

    def freeze(self, seconds):
        """The process is stopped: it reads nothing and says nothing, and its streams live on."""
        self.sim.count("agent frozen")
        self.frozen_until_s = self.sim.loop.time() + seconds

    def fall_ill(self, seconds):
        """Nearly all that it does fails for a while, whichever process does it."""
        self.sim.count("agent fell ill")
        self.sick_until_s = self.sim.loop.time() + seconds

    def _later(self, seconds, act, *args):
        """Runs `act` later, if this process still lives; when it is frozen, as soon as it isn't."""
        process = self.process

        def run():
            if process != self.process:
                return
            wait_s = self.frozen_until_s - self.sim.loop.time()
            if wait_s > 0:
                self.sim.loop.call_later(wait_s + 1e-6, run)
            else:
                act(*args)

        self.sim.loop.call_later(seconds, run)

    # --- the stream ---

    def _connect(self, process):
        if self.wire is not None:
            return
        self.welcomed = False
        coordinator = self.sim.coordinator_for(self)
        self.wire = coordinator.connect(self) if coordinator is not None else None
        if self.wire is None:
            self._later(self.sim.rng.uniform(0.1, 1.0), self._connect, process)
            return
        in_flight = [(task_id, work.fence) for task_id, work in self.work.items()] + list(self.unanswered)
        hello = agent_pb2.Hello(
            agent_name=self.name,
            session_nonce=f"{self.name}-process-{self.process}",
            capabilities=[agent_pb2.Capability(task_type=one) for one in self.capabilities],
            max_concurrent_tasks=self.capacity,
            in_flight=[agent_pb2.InFlightAttempt(task_id=task_id, fence=fence) for task_id, fence in in_flight],
            protocol_version=1,
        )
        self.wire.send(agent_pb2.ConnectRequest(hello=hello))
        self._later(WELCOME_WITHIN_S, self._unless_welcomed, self.wire)

    def _unless_welcomed(self, wire):
        if wire is self.wire and not self.welcomed and not self.sim.store_is_out:
            self.break_stream()
        elif wire is self.wire and not self.welcomed:
            self._later(WELCOME_WITHIN_S, self._unless_welcomed, wire)

    def ended(self, wire):
        if wire is self.wire:
            self.wire = None
            self._later(self.sim.rng.uniform(0.05, 1.0), self._connect, self.process)

    def received(self, wire, message):
        if wire is self.wire:
            self._later(0.0, self._read, wire, message)

    def _read(self, wire, message):
        if wire is not self.wire:
            return
        if message.HasField("welcome"):
            self._reconcile(message.reconcile)
            self.welcomed = True
            wire.send(agent_pb2.ConnectRequest(ready=agent_pb2.Ready(limit=self.capacity + self.sim.rng.choice([0, 0, 5]))))
            self._send_results()
        if message.HasField("assign"):
            for assignment in message.assign.assignments:
                self._begin(assignment)
            wire.send(agent_pb2.ConnectRequest(acknowledged_batch_ids=[message.assign.batch_id]))
        for exception in message.renew_ack.exceptions if not message.renew_ack.suspended else ():
            self._stop(exception.task_id, exception.fence, lost=exception.verdict == agent_pb2.RENEW_VERDICT_LOST)
        for cancel in message.cancels:
            self._stop(cancel.task_id, cancel.fence, lost=cancel.lost)
        for ack in message.result_acks:
            for result in wire.batches[ack.batch_id]:
                self.unanswered.pop((result.task_id, result.fence), None)

    def _reconcile(self, reconcile):
        for one in reconcile.attempts:
            key = (one.task_id, one.fence)
            if one.verdict == CANCEL:
                self._stop(*key, lost=False)
            elif one.verdict != KEEP:
                self.unanswered.pop(key, None)
                self._stop(*key, lost=True)

    def _renew(self):
        self._later(self.sim.settings.renew_period_s, self._renew)
        if self.wire is not None and self.welcomed:
            progress = [(task_id, work.fence, common_pb2.Progress(current=work.steps, total=9)) for task_id, work in self.work.items()]
            renewals = [agent_pb2.Renewal(task_id=one, fence=fence, progress=moved) for one, fence, moved in progress]
            renewals += [agent_pb2.Renewal(task_id=task_id, fence=fence) for task_id, fence in self.unanswered]
            self.wire.send(agent_pb2.ConnectRequest(renew=agent_pb2.Renew(attempts=renewals)))
            self._send_results()

    def _send_results(self):
        """All that is unanswered, also what may just not have been answered yet."""
        if self.unanswered and self.wire is not None and self.welcomed:
            self.batch_id += 1
            results = [
                agent_pb2.AttemptResult(task_id=task_id, fence=fence, outcome=outcome)
                for (task_id, fence), outcome in self.unanswered.items()
            ]
            if self.ghosts and self.sim.rng.random() < 0.1:  # a process that was thought dead reports after all
                task_id, fence = self.sim.rng.choice(self.ghosts)
                results.append(agent_pb2.AttemptResult(task_id=task_id, fence=fence, outcome=self._outcome(task_id, fence, stopping=False)))
            self.wire.batches[self.batch_id] = results
            self.wire.send(agent_pb2.ConnectRequest(results=agent_pb2.ResultBatch(batch_id=self.batch_id, results=results)))

    # --- the work ---

    def _begin(self, assignment):
        task_id, rng = assignment.task.task_id, self.sim.rng
        self.work[task_id] = Work(assignment.fence)
        if rng.random() < 0.03 and assignment.task.HasField("run_timeout"):
            return  # it hangs
        duration_s = rng.choice([0.0, 0.01, 0.1, 0.5, 2.0, 12.0, 45.0])
        for step in range(rng.choice([0, 0, 1, 3])):
            self._later(duration_s * rng.random(), self._step, task_id, assignment.fence, step)
        self._later(duration_s, self._finish, task_id, assignment.fence)

    def _step(self, task_id, fence, _):
        work = self.work.get(task_id)
        if work is None or work.fence != fence or self.wire is None or not self.welcomed:
            return
        work.steps += 1
        if self.sim.rng.random() < 0.5:
            work.checkpoints += 1
            data = f"{fence} {work.checkpoints}".encode()
            sent = agent_pb2.Checkpoint(task_id=task_id, fence=fence, sequence=work.checkpoints, data=data)
            self.wire.send(agent_pb2.ConnectRequest(checkpoints=[sent]))
        else:
            piece = agent_pb2.Chunk(task_id=task_id, fence=fence, offset=work.emitted, data=b"piece")
            work.emitted += 5
            self.wire.send(agent_pb2.ConnectRequest(chunks=[piece]))

    def _stop(self, task_id, fence, *, lost):
        work = self.work.get(task_id)
        if work is None or work.fence != fence:
            return
        if lost and self.sim.rng.random() < 0.5:
            del self.work[task_id]
        elif lost:
            pass  # a thread that doesn't stop: it will say what it came to
        elif not work.stopping:
            work.stopping = True
            self._later(self.sim.rng.choice([0.0, 0.2, 5.0]), self._finish, task_id, fence)

    def _finish(self, task_id, fence):
        work = self.work.get(task_id)
        if work is None or work.fence != fence:
            return
        del self.work[task_id]
        self.unanswered[task_id, fence] = self._outcome(task_id, fence, stopping=work.stopping)
        self._send_results()

    def _outcome(self, task_id, fence, *, stopping):
        outcome, dice = common_pb2.Outcome(), self.sim.rng.random()
        if stopping and dice < 0.7:
            outcome.cancelled.reason = "asked for"
        elif self.sim.loop.time() < self.sick_until_s and dice < 0.95:
            outcome.failure.message = "it is ill"
        elif dice < 0.78:
            outcome.success.payload = f"{task_id} by {self.name} under {fence}".encode()
        elif dice < 0.90:
            outcome.failure.message = "it broke"
            if dice < 0.80:
                outcome.failure.retry_after.CopyFrom(convert.duration(3))
        elif dice < 0.93:
            outcome.failure.CopyFrom(common_pb2.Failure(message="it can't work", non_retryable=True))
        else:
            outcome.returned.reason = "draining"
        return outcome
