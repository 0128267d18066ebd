"""Leaks on purpose, to see that a soak finds them: SOAK_LEAK names the process that holds on to SOAK_LEAK_BYTES for each task of its."""

import os
from typing import Any

_HEADER = 33  # bytes that an object of bytes takes beside them
_held: list[bytes] = []


def leak_a_task(role: str) -> None:
    """Has this process leak from now on, if it is meant."""
    if os.environ.get("SOAK_LEAK") != role:
        return
    if role == "coordinator":
        from coordinator.engine.namespace import Namespace

        _leak_at(Namespace, "deliver")
    elif role == "agent":
        from agent_node.runner import Runner

        _leak_at(Runner, "start")
    else:
        from agent_node.client.session import Session

        _leak_at(Session, "_end")


def _leak_at(owner: type, name: str) -> None:
    original = getattr(owner, name)
    size = int(os.environ["SOAK_LEAK_BYTES"]) - _HEADER

    def leaking(*arguments: Any, **named: Any) -> Any:
        _held.append(os.urandom(size))  # noqa: TID251 - nobody's id
        return original(*arguments, **named)

    setattr(owner, name, leaking)
