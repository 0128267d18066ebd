"""Fills the agent's messages from what its session remembers, and notes there what was said."""

from collections import deque
from collections.abc import Mapping

from muster.v1.agent_pb2 import Hello

from agent_node.attempt import AttemptKey
from agent_node.held import Held, Identity, StreamState
from agent_node.outgoing import OutgoingMessage, duration

PROTOCOL_VERSION = 1


def fill_hello(hello: Hello, identity: Identity, held: Mapping[AttemptKey, Held]) -> None:
    """Who the agent is, and what it holds."""
    hello.agent_name = identity.agent_name
    hello.session_nonce = identity.session_nonce
    for one in identity.capabilities:
        hello.capabilities.add(task_type=one.task_type, max_concurrent=one.max_concurrent, version=one.version)
    hello.labels.update(identity.labels)
    hello.max_concurrent_tasks = identity.capacity
    for task_id, fence in held:
        hello.in_flight.add(task_id=task_id, fence=fence)
    hello.sdk = identity.sdk
    hello.protocol_version = PROTOCOL_VERSION


def fill_renew(out: OutgoingMessage, state: StreamState, held: Mapping[AttemptKey, Held], loop_lag_s: float) -> None:
    """As many renewals as fit; the others stay in the queue, for another Renew."""
    queue = state.renew_queue
    if state.renew_due:  # now, not when it fell due: what was assigned since is held, too
        state.renew_due = False
        queue.clear()
        queue.extend(held.values())
    out.fits(16)
    out.request.renew.loop_lag.CopyFrom(duration(loop_lag_s))
    while queue:
        if queue[0].attempt.key in held and not out.add_renewal(queue[0]):
            break
        queue.popleft()
    state.renews_sent += 1


def fill_checkpoints_and_output(out: OutgoingMessage, dirty: dict[AttemptKey, Held]) -> None:
    """What attempts want stored. Those that got everything out are no longer dirty."""
    for key, held in list(dirty.items()):
        if held.checkpoint is not None and not held.checkpoint_sent:
            if not out.add_checkpoint(held.attempt, held.checkpoint):
                continue
            held.checkpoint_sent = True
        if held.output is not None and held.output_sent < len(held.output):
            held.output_sent = out.add_output(held.attempt, held.output, held.output_sent)
            if held.output_sent < len(held.output):
                continue
        del dirty[key]


def fill_results(out: OutgoingMessage, state: StreamState, held: Mapping[AttemptKey, Held], dirty: Mapping[AttemptKey, Held]) -> None:
    """Ended attempts, in their order, but for those whose output is to go first."""
    batch: list[Held] = []
    waiting: list[Held] = []
    unsent: deque[Held] = state.unsent_results
    while unsent:
        ended = unsent[0]
        key = ended.attempt.key
        if ended.outcome is None or key not in held:  # lost meanwhile
            unsent.popleft()
            continue
        if dirty and key in dirty:
            waiting.append(unsent.popleft())
            continue
        if not out.add_result(ended.attempt, ended.outcome, ended.stop_reason, ended.usage):
            break
        batch.append(unsent.popleft())
    unsent.extendleft(reversed(waiting))
    if batch:
        state.last_batch_id += 1
        out.request.results.batch_id = state.last_batch_id
        state.sent_batches[state.last_batch_id] = batch
