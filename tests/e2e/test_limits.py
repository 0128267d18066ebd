"""Limits are exact over all agents and over kill -9: what the journal and the handlers say of every start is counted again, naively."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import policy_pb2

from agent_node import Client, Scheduling
from coordinator.core.events import Assigned, AttemptFailed, Completed, PolicySet, Returned, Submitted
from coordinator.core.model import Spec
from coordinator.core.policies import RateLimitPolicy
from tests.e2e.deployment import client_of, deployed
from tests.e2e.journal_tail import Entry, followed_journal
from tests.support.eventually import eventually
from tests.support.known_limits import KnownLimits
from tests.support.processes import Children

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_TASKS = 450
_KILLS = 3
_RUNNING = {"run:one": 1, "run:a": 4, "run:b": 4}
_RATES = {"rate:exact": (30, 3000), "rate:coarse": (150, 3000)}  # above 128 starts a period, they are counted by slots
_TYPE_RUNNING, _TYPE_RATE = 6, (25, 1000)


def limits() -> list[policy_pb2.Policy]:
    """Of each kind one at least; those of keys by name and by prefix."""
    of_keys = [("run:one", 1), ("run:*", 4)]
    running = [policy_pb2.ConcurrencyLimitPolicy(concurrency_key=key, max_running=most) for key, most in of_keys]
    running.append(policy_pb2.ConcurrencyLimitPolicy(task_type="metered", max_running=_TYPE_RUNNING))
    rates = [policy_pb2.RateLimitPolicy(rate_key=key, count=count, period=_ms(period)) for key, (count, period) in _RATES.items()]
    rates.append(policy_pb2.RateLimitPolicy(task_type="metered", count=_TYPE_RATE[0], period=_ms(_TYPE_RATE[1])))
    return [policy_pb2.Policy(concurrency_limit=each) for each in running] + [policy_pb2.Policy(rate_limit=each) for each in rates]


def _ms(milliseconds: int) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(milliseconds)
    return duration


@dataclass
class Counted:
    """What the journal says."""

    fences: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # of attempts, by task id
    most_running: Counter[str] = field(default_factory=Counter)  # by concurrency key, or task type
    starts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # dates, by rate key or task type


def count(entries: Sequence[Entry]) -> Counted:
    """Goes over the journal, and raises AssertionError at a start that a limit forbids."""
    known, found = KnownLimits(), Counted()
    specs: dict[int, Spec] = {}
    running: dict[int, Spec] = {}
    for _, date_ms, event in entries:
        match event:
            case PolicySet():
                known.observe(event)
            case Submitted():
                specs[event.number] = event.spec
            case Assigned():
                spec = specs[event.number]
                assert event.number not in running
                assert not known.hold_up(spec, list(running.values()), date_ms), f"{spec.task_id} began although a limit is exhausted"
                known.began(spec, date_ms)
                running[event.number] = spec
                found.fences[spec.task_id].add(event.fence)
                for name in (spec.scheduling.concurrency_key, spec.task_type):
                    alike = [one for one in running.values() if name in (one.scheduling.concurrency_key, one.task_type)]
                    found.most_running[name] = max(found.most_running[name], len(alike))
                for name in (spec.scheduling.rate_key, spec.task_type):
                    found.starts[name].append(date_ms)
            case Completed() | AttemptFailed() | Returned():
                del running[event.number]
    rates = [policy for policy in known.policies.values() if isinstance(policy, RateLimitPolicy)]
    assert len(rates) == len(_RATES) + 1, "they were all in force"
    return found


def began_by(entries: Sequence[Entry]) -> Counter[int]:
    """How many attempts each coordinator began, by its epoch."""
    return Counter(epoch for epoch, _, event in entries if isinstance(event, Assigned))


def most_within(dates_ms: Sequence[int], period_ms: int) -> int:
    """How many of the dates lie within one period at most."""
    return max(sum(first <= date < first + period_ms for date in dates_ms) for first in dates_ms)


async def run_load(client: Client, rng: random.Random, ended: set[str]) -> None:
    """Submits all tasks at once, and notes each whose result has come."""

    async def one(number: int) -> None:
        of_keys = Scheduling(concurrency_key=rng.choice(["", *_RUNNING]), rate_key=rng.choice(["", *_RATES]))
        task_type = "limited" if number % 3 else "metered"
        handle = await client.submit(task_type, of_keys.concurrency_key, scheduling=of_keys, priority=rng.choice([1, 2, 3, 4]))
        await handle.result()
        ended.add(handle.task_id)

    async with asyncio.TaskGroup() as group:
        for number in range(_TASKS):
            group.create_task(one(number))


async def test_limits_are_exact_over_all_agents_and_coordinators(children: Children, tmp_path, rng: random.Random) -> None:
    """Three agents whose capacity is far beyond what the limits allow; snapshots, so that recovery starts from them too."""
    ended: set[str] = set()
    options = ("--log-level", "info", "--snapshot-after", "20000")
    async with deployed(children, tmp_path, *options) as deployment, client_of(deployment) as client:
        await client.set_policies(limits())
        for name in ("one", "two", "three"):
            deployment.start_agent(name, capacity=50)
        await deployment.agent_connected(client, "one", "two", "three")
        snapshots = 0
        async with followed_journal(deployment.store_socket) as journal, asyncio.timeout(90), asyncio.TaskGroup() as group:
            load = group.create_task(run_load(client, rng, ended))
            for kill in range(1, _KILLS + 1):
                await eventually(
                    lambda kill=kill: len(ended) >= _TASKS * kill // (_KILLS + 2) and len(began_by(journal.entries)) >= kill,
                    within_s=40,
                    message=f"results and starts: {kill}",
                )
                snapshots += deployment.coordinator.output().count("snapshot.taken")
                await deployment.kill_coordinator()
            await load
            await eventually(lambda: sum(isinstance(event, Completed) for _, _, event in journal.entries) == _TASKS, message="the tail")
        found = count(journal.entries)
    assert len(ended) == _TASKS
    assert snapshots, "some coordinator recovered from one"
    assert len(began_by(journal.entries)) == _KILLS + 1, "each coordinator began something"

    # Each limit was reached, or it showed nothing.
    assert {key: found.most_running[key] for key in _RUNNING} == _RUNNING
    assert found.most_running["metered"] == _TYPE_RUNNING
    assert most_within(found.starts["metered"], _TYPE_RATE[1]) == _TYPE_RATE[0]
    assert most_within(found.starts["rate:exact"], _RATES["rate:exact"][1]) == _RATES["rate:exact"][0]

    # What the handlers say: each execution is a start of the journal's, and no more of a key run at once than may.
    now: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for line in deployment.recorded():
        task_id, fence = str(line["task_id"]), int(str(line["fence"]))
        assert fence in found.fences[task_id], f"{task_id} ran under a fence that the journal doesn't know"
        for name in (str(line["key"]), str(line["task_type"])):
            if line["event"] == "over":
                now[name].remove((task_id, fence))
                continue
            now[name].add((task_id, fence))
            most = {**_RUNNING, "metered": _TYPE_RUNNING}.get(name)
            assert most is None or len(now[name]) <= most, f"{len(now[name])} of {name} ran at once"
    assert not any(now.values())
