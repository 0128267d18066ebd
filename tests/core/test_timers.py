"""The wheel against a naive model: a dictionary of due times."""

from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.timers import TimerWheel

WIDTH = 0.25


class Item:
    def __init__(self, name):
        self.name = name
        self.due_slot = 0


def test_nothing_comes_out_early_and_nothing_later_than_a_slot():
    wheel, item = TimerWheel(slot_width=WIDTH), Item("one")
    wheel.arm(item, 10.1)
    assert wheel.take_due(10.1) == []
    assert wheel.take_due(10.1 + WIDTH) == [item]
    assert wheel.next_due() is None


def test_what_is_disarmed_stays_in():
    wheel, item = TimerWheel(slot_width=WIDTH), Item("one")
    wheel.arm(item, 1)
    wheel.disarm(item)
    wheel.disarm(item)  # and it may be said twice
    assert wheel.next_due() is None
    assert wheel.take_due(100) == []


def test_an_item_can_be_armed_again_after_it_came_out():
    wheel, item = TimerWheel(slot_width=WIDTH), Item("one")
    wheel.arm(item, 1)
    assert wheel.take_due(2) == [item]
    wheel.arm(item, 3)
    assert wheel.take_due(4) == [item]


@given(st.lists(st.tuples(st.sampled_from(["arm", "disarm", "pass"]), st.integers(0, 5), st.floats(0, 50)), max_size=80))
def test_a_wheel_is_a_dictionary_of_due_times(operations):
    wheel, items, due, now = TimerWheel(slot_width=WIDTH), [Item(str(name)) for name in range(6)], {}, 0.0
    for operation, which, amount in operations:
        item = items[which]
        if operation == "arm" and item not in due:
            due[item] = now + amount
            wheel.arm(item, now + amount)
        elif operation == "disarm":
            due.pop(item, None)
            wheel.disarm(item)
        elif operation == "pass":
            now += amount / 10
            out = wheel.take_due(now)
            assert all(due[each] <= now for each in out), "early"
            for each in out:
                del due[each]
            assert all(at > now - WIDTH for at in due.values()), "more than a slot late"
        if due:
            assert now <= wheel.next_due() + WIDTH
            assert wheel.next_due() <= min(due.values()) + WIDTH
        else:
            assert wheel.next_due() is None
