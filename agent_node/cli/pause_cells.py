"""Pauses and cordons in words."""

from collections.abc import Iterable

from muster.v1 import policy_pb2

from agent_node.cli.times import local_time


def paused_what(pause: policy_pb2.PausePolicy) -> str:
    """What is paused."""
    if not pause.task_type:
        return "the namespace"
    return f"every task type that begins with {pause.task_type[:-1]}" if pause.task_type.endswith("*") else f"task type {pause.task_type}"


def because(reason: str) -> str:
    """What an operator gave as a reason, behind a statement."""
    return f": {reason}" if reason else ""


def pause_cells(policy: policy_pb2.Policy) -> tuple[str, str]:
    """A pause's key, and what it says."""
    return policy.pause.task_type, f"paused{_until(policy.pause)}{because(policy.pause.reason)}"


def cordon_cells(policy: policy_pb2.Policy) -> tuple[str, str]:
    """A cordon's key, and what it says."""
    return policy.cordon.agent_name, f"cordoned{because(policy.cordon.reason)}"


def held_line(policies: Iterable[policy_pb2.Policy]) -> str:
    """Pauses, or cordons, on a line; empty when there are none."""
    said = []
    for policy in policies:
        if policy.HasField("pause"):
            said.append(f"{policy.pause.task_type or 'the namespace'}{_until(policy.pause)}{_in_brackets(policy.pause.reason)}")
        else:
            said.append(f"{policy.cordon.agent_name}{_in_brackets(policy.cordon.reason)}")
    return ", ".join(said)


def _in_brackets(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _until(pause: policy_pb2.PausePolicy) -> str:
    return f" until {local_time(pause.end_time)}" if pause.HasField("end_time") else ""
