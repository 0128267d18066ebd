"""The checker of concurrent histories tells right from wrong: known histories, and all of a trial by exhaustion beside it."""

import itertools
import random

import pytest

from tests.support.linearizability import UNKNOWN, Operation, TooHardError, find_violation, independent_parts
from tests.support.state_model import (
    Acquire,
    Add,
    Conflict,
    Delete,
    Read,
    Refused,
    Release,
    Seen,
    Write,
    Written,
    find_state_violation,
)


class Register:
    """One number that can be read and set."""

    initial = 0

    def step(self, state, call, answer):
        kind, value = call
        if kind == "set":
            yield value
        elif answer is UNKNOWN or answer == state:
            yield state


def op(called_s, returned_s, call, answer=True, client="c"):
    return Operation(client, call, answer, called_s, returned_s)


def put(key, value, *, if_revision=None, token=0):
    return Write(((key, value),), if_revision, token)


def is_linearizable(*history):
    return find_state_violation(history) is None


def by_exhaustion(history, model):
    """Whether any order of any choice of the open operations explains the history."""
    answered = [operation for operation in history if not operation.is_open]
    opened = [operation for operation in history if operation.is_open]
    for count in range(len(opened) + 1):
        for chosen in itertools.combinations(opened, count):
            for order in itertools.permutations([*answered, *chosen]):
                if any(
                    not late.is_open and late.returned_s < early.called_s
                    for position, early in enumerate(order)
                    for late in order[position + 1 :]
                ):
                    continue
                states = {model.initial}
                for operation in order:
                    states = {after for state in states for after in model.step(state, operation.call, operation.answer)}
                if states:
                    return True
    return False


def test_it_agrees_with_a_trial_of_every_order():
    rng = random.Random(4)
    verdicts = {True: 0, False: 0}
    for _ in range(1500):
        history = []
        for _ in range(rng.randint(1, 5)):
            called_s = rng.randint(0, 8)
            kind = rng.choice(["set", "get"])
            answer = UNKNOWN if rng.random() < 0.25 else rng.randint(0, 2)
            history.append(op(called_s, called_s + rng.randint(0, 5), (kind, rng.randint(1, 2)), answer))
        expected = by_exhaustion(history, Register())
        assert (find_violation(history, Register()) is None) == expected, history
        verdicts[expected] += 1
    assert min(verdicts.values()) > 300, verdicts


def test_what_overlaps_may_come_in_either_order_and_what_does_not_may_not():
    first, second = op(0, 10, put("k", 1), Written(2)), op(1, 9, put("k", 2), Written(1))
    assert is_linearizable(first, second, op(11, 12, Read(("k",)), (Seen(1, 2, 2),)))
    assert not is_linearizable(first, second, op(11, 12, Read(("k",)), (Seen(2, 1, 1),)))
    assert not is_linearizable(op(0, 1, put("k", 1), Written(2)), op(2, 3, put("k", 2), Written(1)))


def test_a_stale_read_is_found_and_shown():
    history = [
        op(0, 1, put("k", 1), Written(1)),
        op(2, 3, put("k", 2), Written(2)),
        op(4, 5, Read(("k",)), (Seen(1, 1, 1),), "reader"),
    ]
    violation = find_state_violation(history)
    assert violation is not None
    assert (violation.explained, violation.answered, violation.stuck) == (2, 3, (history[2],))
    assert "client='reader'" in str(violation)
    assert is_linearizable(*history[:2], op(1.5, 5, Read(("k",)), (Seen(1, 1, 1),)))


def test_a_lost_update_is_found():
    assert is_linearizable(op(0, 5, Add("k", 1), Seen(1, 1, 1)), op(0, 5, Add("k", 1), Seen(2, 2, 2)))
    assert not is_linearizable(op(0, 5, Add("k", 1), Seen(1, 1, 1)), op(0, 5, Add("k", 1), Seen(1, 2, 1)))


def test_a_write_of_a_former_holder_is_found():
    taken = [op(0, 1, Acquire("k"), 1), op(2, 3, put("k", 7, token=1), Written(2)), op(4, 5, Acquire("k"), 3)]
    assert is_linearizable(*taken, op(6, 7, put("k", 8, token=3), Written(4)), op(8, 9, put("k", 9, token=1), Refused()))
    assert is_linearizable(*taken, op(4, 7, put("k", 8, token=1), Written(4))), "it may still have held it"
    assert not is_linearizable(*taken, op(6, 7, put("k", 8, token=1), Written(4)))
    assert not is_linearizable(*taken, op(6, 7, Release("k", 3)), op(8, 9, put("k", 8, token=3), Written(4)))
    assert not is_linearizable(*taken, op(6, 7, Acquire("k"), 2)), "tokens grow"


def test_an_open_write_may_happen_late_or_never_but_once():
    opened = op(0, 0, put("k", 1), UNKNOWN)
    write = op(1, 2, put("k", 2), Written(5))
    assert is_linearizable(opened, write, op(3, 4, Read(("k",)), (Seen(2, 5, 1),)))
    late = [opened, write, op(3, 4, Read(("k",)), (Seen(2, 5, 1),)), op(5, 6, Read(("k",)), (Seen(1, 9, 2),))]
    assert is_linearizable(*late)
    assert not is_linearizable(*late, op(7, 8, Read(("k",)), (Seen(1, 10, 2),))), "its revision doesn't change"
    assert not is_linearizable(op(3, 3, put("k", 1), UNKNOWN), op(1, 2, Read(("k",)), (Seen(1, 5, 1),))), "not before its call"
    adds = [op(0, 0, Add("k", 1), UNKNOWN), op(1, 2, Add("k", 1), Seen(2, 4, 2))]
    assert is_linearizable(*adds)
    assert not is_linearizable(*adds, op(3, 4, Read(("k",)), (Seen(3, 5, 3),))), "it counts once"


def test_conditions_hold_or_tell_what_is_there():
    first = op(0, 1, put("k", 1), Written(3))
    assert is_linearizable(first, op(2, 3, put("k", 2, if_revision=3), Written(4)))
    assert is_linearizable(first, op(2, 3, put("k", 2, if_revision=2), Conflict(Seen(1, 3, 1))))
    assert not is_linearizable(first, op(2, 3, put("k", 2, if_revision=3), Conflict(Seen(1, 3, 1))))
    assert not is_linearizable(first, op(2, 3, put("k", 2, if_revision=2), Written(4)))
    assert not is_linearizable(first, op(2, 3, put("k", 2, if_revision=0), Conflict(None)))
    opened = op(0, 0, put("k", 1), UNKNOWN)
    assert is_linearizable(opened, op(1, 2, put("k", 2, if_revision=7), Written(8)))
    assert not is_linearizable(opened, op(1, 2, put("k", 2, if_revision=7), Written(6)))


def test_deletes_say_whether_there_was_something():
    first = op(0, 1, put("k", 1), Written(3))
    assert is_linearizable(first, op(2, 3, Delete("k")), op(4, 5, Read(("k",)), (None,)), op(6, 7, put("k", 2), Written(9)))
    assert not is_linearizable(first, op(2, 3, Delete("k"), answer=False))
    assert not is_linearizable(first, op(2, 3, Delete("k")), op(4, 5, Delete("k")))
    assert not is_linearizable(first, op(2, 3, Delete("k")), op(6, 7, Add("k", 5), Seen(6, 9, 2)))


def test_a_torn_read_of_two_keys_is_found():
    both = [op(0, 1, Write((("x", 1), ("y", 1))), Written(1)), op(2, 3, Write((("x", 2), ("y", 2))), Written(2))]
    assert is_linearizable(*both, op(2, 4, Read(("x", "y")), (Seen(1, 1, 1), Seen(1, 1, 1))))
    assert not is_linearizable(*both, op(2, 4, Read(("x", "y")), (Seen(2, 2, 2), Seen(1, 1, 1))))


def test_a_history_falls_into_what_shares_no_key():
    history = [op(0, 1, Read(keys)) for keys in [("a", "b"), ("c",), ("d", "e"), ("b", "d"), ("c",)]]
    parts = {keys: len(operations) for keys, operations in independent_parts(history, lambda call: call.keys)}
    assert parts == {frozenset("abde"): 3, frozenset("c"): 2}


def test_what_takes_too_long_is_no_verdict():
    history = [op(0, 9, ("set", number)) for number in range(12)] + [op(10, 11, ("get", 0), 99)]
    with pytest.raises(TooHardError, match="500 configurations"):
        find_violation(history, Register(), max_configurations=500)


def test_a_long_history_of_overlapping_calls_is_checked_in_no_time():
    history = [op(number, number + 5, put("k", number), Written(number + 1)) for number in range(5000)]
    assert is_linearizable(*history)


def test_open_calls_that_leave_no_trace_are_no_burden():
    history = []
    for number in range(0, 28, 4):
        history += [op(number, number, put("k", number), UNKNOWN), op(number + 1, number + 1, put("k", 1), Written(number + 1))]
        history += [op(number + 2, number + 2, Delete("k"))]
    assert find_state_violation([*history, op(500, 501, Read(("k",)), (Seen(1, 1, 1),))]) is not None
