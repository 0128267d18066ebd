"""Pauses and cordons as policies: what both clients send, and what they read of the answer."""

from collections.abc import Iterable

from muster.v1.policy_pb2 import POLICY_KIND_CORDON, POLICY_KIND_PAUSE, CordonPolicy, PausePolicy, Policy, PolicyName

from agent_node.connection import duration


def pause_policy(task_type: str, reason: str, for_s: float | None) -> Policy:
    """A pause to be set."""
    pause = PausePolicy(task_type=task_type, reason=reason)
    if for_s is not None:
        pause.pause_for.CopyFrom(duration(for_s))
    return Policy(pause=pause)


def pause_name(task_type: str) -> PolicyName:
    """A pause to be lifted."""
    return PolicyName(kind=POLICY_KIND_PAUSE, key=task_type)


def cordon_policy(agent_name: str, reason: str) -> Policy:
    """A cordon to be set."""
    return Policy(cordon=CordonPolicy(agent_name=agent_name, reason=reason))


def cordon_name(agent_name: str) -> PolicyName:
    """A cordon to be lifted."""
    return PolicyName(kind=POLICY_KIND_CORDON, key=agent_name)


def pauses_of(policies: Iterable[Policy], task_type: str) -> list[Policy]:
    """Those of some policies that pause a task type, by its name, by a prefix of it, or as the whole namespace's."""
    pauses = [policy for policy in policies if policy.HasField("pause")]
    return [one for one in pauses if _covers(one.pause.task_type, task_type)]


def _covers(pattern: str, task_type: str) -> bool:
    if pattern.endswith("*"):
        return task_type.startswith(pattern[:-1])
    return pattern in ("", task_type)
