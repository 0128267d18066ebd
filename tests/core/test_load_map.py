"""The load map against a naive model: look at every agent."""

from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.load_map import AgentStatus
from coordinator.core.model import Attempt, Capability, Needs, Task
from tests.support.core_world import load_map, spec_of

CAPABILITIES = [("a",), ("a", "b"), ("b",)]


def joined(load, name, *, capacity=10, limit=None, capabilities=("a",)):
    agent = load.agent(name)
    agent.status = AgentStatus.CONNECTED
    agent.session = f"session of {name}"
    agent.capacity = capacity
    agent.ready_limit = capacity if limit is None else limit
    agent.can(dict.fromkeys(capabilities, Capability()), {})
    load.join(agent)
    return agent


def give(agent, count=1):
    for _ in range(count):
        number = max(agent.running, default=0) + 1
        agent.begin(Attempt(Task(number, spec_of(f"task{number}"), 0), 0, 0, 0))
    agent.group.touch(agent)


def test_load_counts_against_capacity():
    load = load_map()
    small, large = joined(load, "small", capacity=2), joined(load, "large", capacity=10)
    give(small, 1)
    give(large, 4)
    assert small.group is large.group
    assert small.group.plain.least_loaded() is large, "4 of 10 is less than 1 of 2"


def test_the_longest_idle_of_equals_goes_first():
    load = load_map()
    agents = [joined(load, name) for name in ("first", "second", "third")]
    group = agents[0].group
    order = []
    for _ in range(6):
        chosen = group.plain.least_loaded()
        order.append(chosen.name)
        give(chosen)
    assert order == ["first", "second", "third"] * 2


def test_the_ready_level_bounds_what_an_agent_gets():
    load = load_map()
    agent = joined(load, "agent", capacity=10, limit=1)
    assert agent.free_slots() == 1
    give(agent)
    assert agent.group.plain.least_loaded() is None


def test_a_draining_or_lost_agent_is_not_free():
    load = load_map()
    agent = joined(load, "agent")
    agent.status = AgentStatus.DRAINING
    assert agent.free_slots() == 0
    agent.status = AgentStatus.DISCONNECTED
    assert agent.free_slots() == 0


def test_agents_of_equal_capabilities_share_a_class_and_the_last_one_takes_it_along():
    load = load_map()
    one = joined(load, "one", capabilities=("a", "b"))
    other = joined(load, "other", capabilities=("b", "a"))
    assert one.group is other.group
    load.leave(one)
    assert load.capable(Needs("a")) == [other.group]
    load.leave(other)
    assert load.capable(Needs("a")) == load.capable(Needs("b")) == []


def test_an_agent_that_comes_back_with_other_capabilities_changes_its_class():
    load = load_map()
    agent = joined(load, "agent", capabilities=("a",))
    joined(load, "agent", capabilities=("b",))
    assert load.capable(Needs("a")) == []
    assert load.capable(Needs("b"))[0].plain.least_loaded() is agent


@given(
    st.lists(
        st.tuples(st.sampled_from(["join", "leave", "give", "free", "ready", "drain", "pick"]), st.integers(0, 5), st.integers(1, 4)),
        max_size=100,
    )
)
def test_least_loaded_is_what_a_scan_finds(operations):
    load = load_map()
    for operation, which, amount in operations:
        agent = load.agents.get(f"agent{which}")
        if operation == "join":
            joined(load, f"agent{which}", capacity=amount + (len(agent.running) if agent else 0), capabilities=CAPABILITIES[amount % 3])
        elif agent is None or agent.group is None:
            continue
        elif operation == "leave":
            agent.status = AgentStatus.DISCONNECTED
            load.leave(agent)
        elif operation == "give" and agent.free_slots() > 0:
            give(agent)
        elif operation == "free" and agent.running:
            agent.end(max(agent.running))
            agent.group.touch(agent)
        elif operation in ("ready", "drain"):
            agent.ready_limit = amount
            agent.status = AgentStatus.DRAINING if operation == "drain" else AgentStatus.CONNECTED
            agent.group.touch(agent)
        for task_type in ("a", "b"):
            free = [each for each in load.agents.values() if task_type in each.capabilities and each.group and each.free_slots() > 0]
            found = [group.plain.least_loaded() for group in load.capable(Needs(task_type))]
            ratios = [len(each.running) / each.capacity for each in found if each is not None]
            assert min(ratios, default=None) == min((len(each.running) / each.capacity for each in free), default=None)
            assert all(each is None or each in free for each in found)
