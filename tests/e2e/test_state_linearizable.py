"""Shared state is linearizable while coordinators and stores are killed: all that concurrent clients were answered has one order."""

import dataclasses
from collections import Counter

import pytest

from tests.chaos.state_clients import GUARDED, STEP
from tests.e2e.deployment import Deployment, deployed
from tests.e2e.state_history import recorded
from tests.support.linearizability import UNKNOWN, Operation
from tests.support.state_model import Acquire, Add, Read, Write, Written, find_state_violation

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # with --state-rounds it goes on for longer


def kinds(history: list[Operation]) -> Counter[str]:
    """What happened how often."""
    return Counter(f"{type(operation.call).__name__} {type(operation.answer).__name__}" for operation in history)


# Faults, put into a history that has none.


def with_a_stale_read(history: list[Operation]) -> list[Operation]:
    """A read answers what a write of the key had replaced before it began."""
    for early in history:
        if not isinstance(early.call, Read) or early.answer[0] is None:
            continue
        key = early.call.keys[0]
        for write in history:
            if not isinstance(write.call, Write) or not isinstance(write.answer, Written) or write.call.puts[0][0] != key:
                continue
            if write.answer.revision <= early.answer[0].revision:
                continue
            for late in history:
                if late.call == early.call and not late.is_open and late.called_s > write.returned_s:
                    return replaced(history, late, answer=early.answer)
    raise AssertionError("no read to make stale")


def with_a_lost_update(history: list[Operation]) -> list[Operation]:
    """Of two additions that came one right after the other, the second answers as if there had been no first."""
    added = [operation for operation in history if isinstance(operation.call, Add) and not operation.is_open]
    told = {(operation.call.key, operation.answer.value): operation.answer for operation in added}
    for late in added:
        early = told.get((late.call.key, late.answer.value - 1))
        # From a value that was put: no two puts are of the same, so there is one time at which the first addition's answer is right.
        if early is not None and early.value > STEP and early.version == late.answer.version - 1:
            return replaced(history, late, answer=dataclasses.replace(early, revision=late.answer.revision))
    raise AssertionError("no addition to lose")


def with_a_write_of_a_former_holder(history: list[Operation]) -> list[Operation]:
    """After all else, a write is made under the first token that anybody had."""
    token = min(operation.answer for operation in history if isinstance(operation.call, Acquire) and operation.answer not in (UNKNOWN, 0))
    revision = max(operation.answer.revision for operation in history if isinstance(operation.answer, Written)) + 1_000_000
    end_s = max(operation.returned_s for operation in history)
    return [*history, Operation("stopped", Write(((GUARDED, 7),), token=token), Written(revision), end_s + 1, end_s + 2)]


def replaced(history: list[Operation], operation: Operation, *, answer: object) -> list[Operation]:
    return [dataclasses.replace(other, answer=answer) if other is operation else other for other in history]


async def test_all_answers_have_one_order_whatever_is_killed(deployment: Deployment, seed: int, state_rounds: int) -> None:
    kills = [deployment.kill_coordinator, deployment.kill_store, deployment.kill_coordinator] * state_rounds
    history = await recorded(deployment, seed=seed, kills=kills)
    found = kinds(history)
    print(f"{len(history)} operations, {sum(operation.is_open for operation in history)} of them open:", dict(found))
    assert find_state_violation(history) is None
    for kind in (
        "Write Written",
        "Write Conflict",
        "Write Refused",
        "Delete bool",
        "Add Seen",
        "Read tuple",
        "Acquire int",
        "Release bool",
    ):
        assert found[kind], f"{kind} is part of it"
    for fault in (with_a_stale_read, with_a_lost_update, with_a_write_of_a_former_holder):
        assert find_state_violation(fault(history)) is not None, fault.__name__


@pytest.mark.parametrize("fault", ["none", "any lock token", "any compare", "repetitions count", "stale reads"])
async def test_a_coordinator_with_a_fault_is_found_out(children, tmp_path, seed: int, fault: str) -> None:
    """The same on a coordinator with a guard taken out, whose sessions break now and then after what they were asked for has been done."""
    async with deployed(children, tmp_path, "--fault", fault, module="tests.e2e.faulty_coordinator") as deployment:
        history = await recorded(deployment, seed=seed)
    violation = find_state_violation(history)
    assert (violation is None) == (fault == "none"), violation
