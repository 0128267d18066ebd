"""The scheduler under any sequence of commands, watched by an oracle that knows nothing of how it works.

Hypothesis chooses the commands; a failing sequence is shortened and printed as a program.
"""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.core import pauses, submits
from coordinator.core.breakers import JITTER, reset
from coordinator.core.effects import TaskEnded
from coordinator.core.events import Assigned
from coordinator.core.model import ENDED, Capability, Progress
from coordinator.core.operations import Priorities
from coordinator.core.policies import BreakerPolicy
from coordinator.core.reports import RenewVerdict, SignOfLife, Verdict, checkpoint, chunk
from coordinator.core.sessions import ReconcileVerdict, draining
from coordinator.core.submits import CancelVerdict, Refused
from tests.support.core_world import FAILED, SUCCESS, CoreWorld, durable, replay, spec_of
from tests.support.known_tasks import kept, told_by
from tests.support.machine_choices import (
    AGENTS,
    BREAKERS,
    IDS,
    JUMPS_S,
    LABELS,
    LIMITS,
    OFFERS,
    PAUSES,
    PICKS,
    RESULTS,
    SCHEDULING,
    SETTINGS,
    TIMING,
)
from tests.support.oracle import Oracle

MAX_MOVED = pauses.MAX_MOVED


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.world = CoreWorld(settings=SETTINGS)
        self.oracle = Oracle(SETTINGS, jitter=JITTER * self.world.jitter)
        self.claims = []  # (agent, task id, fence) of every assignment ever made
        self.settled = set()  # ids that only the store knows
        self.ends = Counter()
        self.seen_events = self.seen_effects = 0

    @initialize(
        fleet=st.dictionaries(AGENTS, st.tuples(st.sampled_from(["ab", "abc", "a", "c"]), st.integers(1, 3)), max_size=3),
        tasks=st.dictionaries(IDS, st.tuples(st.sampled_from("abc"), st.integers(1, 4)), min_size=2, max_size=8),
        opens_at_once=st.booleans(),
        max_moved=st.sampled_from([1, 3, pauses.MAX_MOVED]),
    )
    def begin(self, fleet, tasks, opens_at_once, max_moved):
        """Most runs begin with agents at work: else they would have to be found by chance. In many, pauses go bit by bit."""
        pauses.MAX_MOVED = max_moved
        for name, (offers, capacity) in fleet.items():
            self.join(name, offers, capacity, {}, 0, 0)
        if opens_at_once:
            self.set_breaker_policy(BreakerPolicy("", consecutive_failures=1))
        for task_id, (task_type, priority) in tasks.items():
            self.submit(task_id, {}, {}, task_type=task_type, priority=priority, max_retries=None, max_crashes=None)

    # --- clients ---

    @rule(
        task_id=IDS,
        scheduling=SCHEDULING,
        timing=TIMING,
        task_type=st.sampled_from("abc"),
        priority=st.integers(1, 4),
        max_retries=st.none() | st.integers(0, 2),
        max_crashes=st.none() | st.integers(0, 2),
        labels=st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2),
        parent=st.sampled_from(["", "task1"]),
    )
    def submit(self, task_id, scheduling, timing, **options):
        if task_id in self.settled:
            return  # the engine has looked it up in the store, and doesn't ask the core
        known = self.world.scheduler.state.find(task_id)
        spec = spec_of(task_id, defaults=SETTINGS.retry, **options, **timing, **scheduling)
        if known is None and self.oracle.refuses(spec):
            assert submits.submit(self.world.scheduler, spec, self.world.now) is Refused.KEY_FULL
            return
        task = self.world.submit(spec)
        assert known in (None, task)
        self.judge()

    @rule(task_id=IDS)
    def cancel(self, task_id):
        number = self.oracle.numbers.get(task_id, 0)
        if number == 0 or task_id in self.settled:
            expected = CancelVerdict.NOT_FOUND
        elif self.oracle.stories[number].end:
            expected = CancelVerdict.ALREADY_ENDED
        else:
            expected = CancelVerdict.REQUESTED if number in self.oracle.held else CancelVerdict.CANCELLED
        assert self.world.cancel(task_id) is expected
        self.judge()

    # --- agents ---

    @rule(
        name=AGENTS,
        offers=st.sampled_from(OFFERS),
        capacity=st.integers(1, 4),
        labels=LABELS,
        version=st.integers(0, 2),
        limit_of_a=st.integers(0, 2),
        same=st.booleans(),
        lists=PICKS,
    )
    def hello(self, name, offers, capacity, labels, version, limit_of_a, same, lists):
        """It lists some of what it holds, and something that it doesn't."""
        mine = [claim[1:] for claim in self.claims if self.oracle.may_end(*claim) and claim[0] == name]
        listed = dict(task for bit, task in enumerate(mine) if lists >> bit & 1)
        stale = {task_id: fence for _, task_id, fence in self.claims[-2:] if task_id not in listed and (task_id, fence) not in mine}
        cancelled = {task_id for task_id in listed if self.oracle.stories[self.oracle.numbers[task_id]].cancelled}
        can = {task_type: Capability(version, limit_of_a if task_type == "a" else 0) for task_type in offers}
        nonce = "same" if same else "other"
        verdicts = self.world.connect(name, can, capacity=capacity, nonce=nonce, in_flight=listed | stale, labels=labels)
        self.oracle.hello(name, can, capacity, labels)
        for task_id in listed:
            self.oracle.heard(self.oracle.numbers[task_id], self.world.now)
        self.judge()
        keeps = [ReconcileVerdict.CANCEL if task_id in cancelled else ReconcileVerdict.KEEP for task_id in listed]
        assert verdicts == keeps + [ReconcileVerdict.DROP] * len(stale)
        assert sorted(self.world.running(name)) == sorted(listed)

    @rule(
        name=AGENTS,
        offers=st.sampled_from(OFFERS[:3]),
        capacity=st.integers(1, 4),
        labels=LABELS,
        version=st.integers(0, 2),
        limit_of_a=st.integers(0, 2),
    )
    def join(self, name, offers, capacity, labels, version, limit_of_a):
        self.hello(name, offers, capacity, labels, version, limit_of_a, same=True, lists=255)
        self.oracle.agents[name].limit = capacity
        self.world.ready(name, capacity)
        self.judge()

    @precondition(lambda self: self.connected())
    @rule(pick=PICKS, limit=st.integers(0, 5))
    def ready(self, pick, limit):
        name = self.one_of(self.connected(), pick)
        self.oracle.agents[name].limit = limit
        self.world.ready(name, limit)
        self.judge()

    @precondition(lambda self: self.connected())
    @rule(pick=PICKS)
    def lose(self, pick):
        name = self.one_of(self.connected(), pick)
        self.oracle.lost(name, self.world.now)
        self.world.lose(name)
        self.judge()

    @precondition(lambda self: self.connected())
    @rule(pick=PICKS)
    def drain(self, pick):
        name = self.one_of(self.connected(), pick)
        self.oracle.agents[name].draining = True
        draining(self.world.agent(name))
        self.world.commit()
        self.judge()

    @precondition(lambda self: self.connected() and self.claims)
    @rule(pick=PICKS, liar=st.none() | AGENTS)
    def acknowledge(self, pick, liar):
        name, task_id, fence, holds = self.claim(pick, liar)
        self.world.acknowledge(name, task_id, fence)
        if holds and self.oracle.held[self.oracle.numbers[task_id]].ack_until_s < float("inf"):
            self.oracle.heard(self.oracle.numbers[task_id], self.world.now)
        self.judge(quiet=not holds)

    @precondition(lambda self: self.connected() and self.claims)
    @rule(pick=PICKS, liar=st.none() | AGENTS, current=st.none() | st.integers(0, 3))
    def renew(self, pick, liar, current):
        name, task_id, fence, holds = self.claim(pick, liar)
        progress = None if current is None else Progress(current, 3)
        verdict = self.world.renew(name, SignOfLife(task_id, fence, progress, (), cancel_delivered=False))
        if holds:
            number = self.oracle.numbers[task_id]
            self.oracle.heard(number, self.world.now)
            assert verdict is (RenewVerdict.CANCEL if self.oracle.stories[number].cancelled else RenewVerdict.EXTENDED)
        else:
            assert verdict is RenewVerdict.LOST
        self.judge(quiet=not holds)

    @precondition(lambda self: self.connected() and self.claims)
    @rule(pick=PICKS, liar=st.none() | AGENTS, result=RESULTS, fence_off=st.sampled_from([0, 0, 0, -1, 1]))
    def finish(self, pick, liar, result, fence_off):
        name, task_id, fence, _ = self.claim(pick, liar)
        fence += fence_off
        holds = self.oracle.may_end(name, task_id, fence)
        story = self.oracle.stories[self.oracle.numbers[task_id]]
        if holds:
            expected = Verdict.ACCEPTED
        elif task_id in self.settled:
            expected = Verdict.UNKNOWN
        else:
            expected = Verdict.DUPLICATE if fence == story.accepted_fence else Verdict.STALE
        assert self.world.finish(name, task_id, result, fence=fence) is expected
        if holds:
            story.accepted_fence = fence
        self.judge(quiet=not holds)

    @precondition(lambda self: self.connected() and self.claims)
    @rule(pick=PICKS, liar=st.none() | AGENTS, offset=st.integers(0, 4), data=st.binary(max_size=4), is_chunk=st.booleans())
    def store_something(self, pick, liar, offset, data, is_chunk):
        name, task_id, fence, holds = self.claim(pick, liar)
        report = chunk if is_chunk else checkpoint
        verdict = report(self.world.scheduler, self.world.agent(name), task_id, fence, offset, data, self.world.now)
        self.world.commit()
        assert (verdict is Verdict.ACCEPTED) == holds
        if holds and self.oracle.held[self.oracle.numbers[task_id]].ack_until_s < float("inf"):
            self.oracle.heard(self.oracle.numbers[task_id], self.world.now)
        self.judge(quiet=not holds)

    @precondition(lambda self: self.held())
    @rule(pick=PICKS, result=RESULTS)
    def attempt_ends(self, pick, result):
        task_id, held = self.one_of(self.held(), pick)
        assert self.world.finish(held.agent, task_id, result, fence=held.fence) is Verdict.ACCEPTED
        self.oracle.stories[self.oracle.numbers[task_id]].accepted_fence = held.fence
        self.judge()

    @precondition(lambda self: self.held())
    @rule(pick=PICKS, seconds=st.sampled_from([0, 0.1, 4.5, 9]))
    def a_bad_day(self, pick, seconds):
        """An agent fails at all that it has, and at what it is given for it; some time later it may be tried again."""
        _, worst = self.one_of(self.held(), pick)
        for _ in range(4):
            mine = [task_id for task_id, held in self.held() if held.agent == worst.agent]
            if not mine:
                break
            held = self.oracle.held[self.oracle.numbers[mine[0]]]
            assert self.world.finish(held.agent, mine[0], FAILED, fence=held.fence) is Verdict.ACCEPTED
            self.oracle.stories[self.oracle.numbers[mine[0]]].accepted_fence = held.fence
            self.judge()
        if seconds:
            self.time_passes(seconds, 2)

    @precondition(lambda self: self.held())
    @rule(pick=PICKS, result=RESULTS)
    def result_comes_twice(self, pick, result):
        task_id, held = self.one_of(self.held(), pick)
        self.attempt_ends(pick, result)
        assert self.world.finish(held.agent, task_id, SUCCESS, fence=held.fence) is Verdict.DUPLICATE
        self.judge(quiet=True)

    @precondition(lambda self: self.held())
    @rule()
    def all_acknowledge_and_renew(self):
        for task_id, held in self.held():
            self.world.acknowledge(held.agent, task_id, held.fence)
            self.oracle.heard(self.oracle.numbers[task_id], self.world.now)
            sign = SignOfLife(task_id, held.fence, None, (), cancel_delivered=False)
            assert self.world.renew(held.agent, sign) is not RenewVerdict.LOST
        self.judge()

    # --- operators ---

    @rule(limit=LIMITS)
    def set_limit(self, limit):
        self.world.set_policy(limit)
        self.judge()

    @rule(pause=PAUSES)
    def pause_or_cordon(self, pause):
        self.world.set_policy(pause)
        self.judge()

    @rule(policy=BREAKERS)
    def set_breaker_policy(self, policy):
        self.world.set_policy(policy)
        self.judge()

    @rule(name=AGENTS, task_type=st.sampled_from(["", "a", "b"]))
    def reset_breakers(self, name, task_type):
        reset(self.world.scheduler, name, task_type)
        self.world.commit()
        self.oracle.breakers.reset(name, task_type)
        self.judge()

    @rule(pick=PICKS)
    def delete_policy(self, pick):
        names = sorted(self.world.scheduler.state.policies)
        if names:
            assert self.world.delete_policy(self.one_of(names, pick))
            self.judge()

    @rule(task_id=IDS, priority=st.integers(1, 4))
    def reprioritise(self, task_id, priority):
        task = self.world.scheduler.state.tasks.get(task_id)
        if task is not None:
            same = self.oracle.stories[task.number].priority == priority
            assert self.world.reprioritise(task_id, priority) is (Priorities.AS_BEFORE if same else Priorities.CHANGED)
            self.judge()

    @rule(task_id=IDS, priority=st.integers(0, 4))
    def redrive(self, task_id, priority):
        """Its record is in the store, whether memory still has it or not."""
        story = self.oracle.stories.get(self.oracle.numbers.get(task_id, 0))
        if story is None or story.end not in ("FAILED", "CANCELLED"):
            return
        if self.oracle.refuses(story.spec):
            assert self.world.redrive(task_id) is Refused.KEY_FULL
            return
        task = self.world.redrive(task_id, priority=priority)
        assert (task.spec.priority, task.run) == (priority or story.priority, story.run + 1)
        self.settled.discard(task_id)
        self.judge()

    @rule(task_id=IDS)
    def purge(self, task_id):
        """The store forgets it; whoever submits the id again submits another task."""
        if task_id in self.settled:
            self.settled.remove(task_id)
            del self.oracle.numbers[task_id]
            self.claims = [claim for claim in self.claims if claim[1] != task_id]

    # --- the world ---

    @rule(seconds=JUMPS_S, ticks=st.integers(1, 4))
    def time_passes(self, seconds, ticks):
        for _ in range(ticks):
            self.world.advance(seconds / ticks)
            self.judge()
            self.oracle.nothing_is_overdue(self.world.now)

    @rule()
    def coordinator_dies(self):
        lived = durable(self.world.scheduler.state)
        assert durable(replay(self.world.journal)) == lived, "the journal tells another story"
        assert durable(self.world.recovered()) == lived, "the snapshot and the journal behind it tell another story"
        self.oracle.takeover(self.world.now)
        self.world.crash()
        assert durable(self.world.scheduler.state) == lived, "a takeover decides nothing"
        self.settled.update(task_id for task_id, number in self.oracle.numbers.items() if self.oracle.stories[number].end)
        self.judge(quiet=True)

    @rule()
    def snapshot_begins(self):
        self.world.begin_snapshot()

    @rule(numbers=st.integers(1, 4), all_of_it=st.booleans())
    def snapshot_goes_on(self, numbers, all_of_it):
        while self.world.go_on_with_snapshot(numbers) and all_of_it:
            pass

    @rule()
    def store_comes_back(self):
        self.oracle.outage_over(self.world.now)
        self.world.scheduler.extend_leases(self.world.now)
        self.judge(quiet=True)

    @rule()
    def ends_become_durable(self):
        state = self.world.scheduler.state
        for task in list(state.ended.values()):
            assert task.state in ENDED
            state.settle(task)
            self.settled.add(task.spec.task_id)

    def teardown(self):
        pauses.MAX_MOVED = MAX_MOVED

    # --- what must hold ---

    def judge(self, *, quiet=False):
        """Shows the oracle what was decided. `quiet`: nothing may have been."""
        events, effects = self.world.events[self.seen_events :], self.world.effects[self.seen_effects :]
        self.seen_events, self.seen_effects = len(self.world.events), len(self.world.effects)
        assert not (quiet and events), f"a report that doesn't count decided {events}"
        self.oracle.kept = {agent.name: agent.reserved for agent in self.world.scheduler.load.agents.values() if agent.reserved}
        scheduler = self.world.scheduler
        standing, pausing = scheduler.breakers.by_agent, bool(scheduler.pauses.moves)
        self.oracle.observe(events, self.world.now, scheduler.backoffs, standing, pausing=pausing)
        ids = {number: task_id for task_id, number in self.oracle.numbers.items()}
        self.claims += [(event.agent, ids[event.number], event.fence) for event in events if isinstance(event, Assigned)]
        self.ends.update(effect.task.number for effect in effects if isinstance(effect, TaskEnded))

    @invariant()
    def one_end_is_told_of_every_run_that_ended(self):
        assert self.ends == Counter(number for number, story in self.oracle.stories.items() if story.end)

    @invariant()
    def every_task_in_memory_tells_its_history(self):
        state = self.world.scheduler.state
        for task in (*state.tasks.values(), *state.ended.values()):
            story = self.oracle.stories[task.number]
            assert [told_by(entry) for entry in task.history] == kept(story.told)
            assert (task.spec.priority, task.run, task.run_created_ms) == (story.priority, story.run, story.created_ms)

    @invariant()
    def the_load_map_is_who_holds_what(self):
        running = {number: name for name, agent in self.world.scheduler.load.agents.items() for number in agent.running}
        assert running == {number: held.agent for number, held in self.oracle.held.items()}

    # --- choices ---

    def connected(self):
        return [name for name, agent in self.oracle.agents.items() if agent.connected]

    def held(self):
        """(task id, attempt) of all that connected agents hold."""
        connected, stories = self.connected(), self.oracle.stories
        return [(stories[number].spec.task_id, held) for number, held in self.oracle.held.items() if held.agent in connected]

    @staticmethod
    def one_of(names, pick):
        return names[pick % len(names)]

    def claim(self, pick, liar):
        """A claim on some attempt, the latest first, by whoever got it or by somebody else, and whether it holds."""
        name, task_id, fence = self.claims[-1 - pick % len(self.claims)]
        name = name if liar is None else liar
        if name not in self.connected():
            name = self.one_of(self.connected(), pick)
        return name, task_id, fence, self.oracle.may_end(name, task_id, fence)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=200, stateful_step_count=60)
