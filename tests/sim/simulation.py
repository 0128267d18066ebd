"""One simulated fleet: coordinators that die, a store that fails, agents and clients, and the chaos among them. All from one seed."""

import asyncio
import random
from collections import Counter

from coordinator.core.breaker_rules import BreakerRules
from coordinator.core.breakers import reset
from coordinator.core.explain import explain
from coordinator.core.model import ALL_ENDS, Settings
from coordinator.core.policies import (
    ConcurrencyLimitPolicy,
    CordonPolicy,
    PausePolicy,
    PolicyKind,
    PolicyName,
    RateLimitPolicy,
    WebhookPolicy,
    WhenFull,
    delete_policy,
    set_policy,
)
from coordinator.core.webhooks import retry
from coordinator.engine.shard import DEFAULT_NAMESPACE
from coordinator.errors import MusterError
from coordinator.journal.memory_store import Fault, MemoryShard, StoreCall
from coordinator.ports import MIN_RETAINED_MS, Retention
from tests.sim.agents import SimAgent
from tests.sim.auditor import Auditor
from tests.sim.clients import SimClient, task_of
from tests.sim.coordinators import Coordinator
from tests.sim.operators import SimOperator
from tests.sim.passing import PassingNamespace
from tests.sim.receivers import BAD_URL, GOOD_URL
from tests.support.virtual_loop import VirtualLoop, run_virtually

UNBOUNDED = Retention(max_age_ms=2**53, max_count=2**53, max_bytes=2**53)  # what is superseded goes all the same
FIRST_DATE_MS = 1_700_000_000_000
CHAOS_S = 60.0
SETTLED_WITHIN_S = 30.0  # after the chaos somebody serves again by then
QUIET_WITHIN_S = 900.0  # after the chaos everything must come to its end within this time
BREAKERS = BreakerRules(consecutive_failures=2, failure_rate=0.5, min_results=4, open_s=3.0, max_open_s=30.0)
OFFERS = [("a",), ("a", "b"), ("b", "c"), ("a", "b", "c")]


class Simulation:
    """Call `run` once. `counts` says afterwards what happened how often."""

    def __init__(self, *, seed):
        self.seed = seed
        self.rng = random.Random(seed)
        self.settings = Settings(breakers=BREAKERS)
        self.shard_data = MemoryShard()
        self.auditor = Auditor(sim=self)
        self.counts = Counter()
        self.agents = {}
        self.clients = []
        self.operator = SimOperator(sim=self)
        self.coordinators = []
        self.store_is_out = False
        self.answers_are_lost = 0.0  # how often
        self._date_ahead_ms = 0
        self.loop = None

    def run(self):
        """Runs it to its end, and answers a hash of all that happened."""
        try:
            return run_virtually(self._main)
        except BaseException as error:
            error.add_note(f"seed {self.seed}; it had come to {dict(self.counts)}")
            raise

    async def _main(self, loop: VirtualLoop):
        self.loop = loop
        self._start_coordinator()
        offers = [*self.rng.choices(OFFERS, k=self.rng.randint(1, 4)), ("a", "b", "c")]  # somebody can run everything
        for number, capabilities in enumerate(offers):
            name = f"agent{number}"
            self.agents[name] = SimAgent(sim=self, name=name, capabilities=capabilities, capacity=self.rng.choice([2, 3, 5]))
        for number in range(self.rng.randint(1, 3)):
            ids = [f"client{number}-{serial}" for serial in range(self.rng.randint(4, 20))]
            tasks = {task_id: task_of(task_id, self.rng) for task_id in ids}
            self.clients.append(SimClient(sim=self, name=f"client{number}", tasks=tasks))
        passing = PassingNamespace(sim=self)
        await self._chaos()
        passing.end()
        await self._calm()
        self.auditor.everything_has_ended([task_id for client in self.clients for task_id in client.tasks])
        self.auditor.every_end_was_told_of()
        await self._forget()
        self.counts["commits"] = self.shard_data.sequence
        self.counts["tasks"] = len(self.auditor.by_id)
        for coordinator in self.coordinators:
            coordinator.kill()
        await asyncio.sleep(1)
        return self.auditor.history.hexdigest()

    # --- time, faults ---

    def now_s(self):
        """The machine's clock, for coordinators."""
        return 500.0 + self.loop.time()

    def date_ms(self):
        """The store's clock."""
        return FIRST_DATE_MS + self._date_ahead_ms + int(self.loop.time() * 1000)

    def latency_s(self):
        return self.rng.choice([0.0002, 0.0005, 0.002, 0.002, 0.1 if self.is_chaos() else 0.002])

    def fail(self, error):
        """Something broke where nobody catches it."""
        self.loop.failure = self.loop.failure or error

    def count(self, what):
        self.counts[what] += 1

    async def fault(self, call):
        """What the store does with a call."""
        await asyncio.sleep(self.rng.choice([0.0001, 0.0005, 0.001, 0.02 if self.is_chaos() else 0.001]))
        if call is StoreCall.SNAPSHOT and self.is_chaos():  # much happens while one is taken
            await asyncio.sleep(self.rng.choice([0.0, 0.1, 1.0]))
        if self.store_is_out:
            return Fault.BEFORE
        if call in (StoreCall.APPEND, StoreCall.SNAPSHOT, StoreCall.TRIM) and self.rng.random() < self.answers_are_lost:
            self.count("answer lost")
            return Fault.AFTER
        return Fault.NONE

    def coordinator_for(self, owner):
        """Whom an agent or a client reaches: the newest one, or during a split an older one, as long as it lives."""
        living = [coordinator for coordinator in self.coordinators if coordinator.alive]
        if len(living) > 1 and self.rng.random() < 0.3:
            return living[0]
        return living[-1] if living else None

    def _start_coordinator(self):
        self.coordinators.append(Coordinator(sim=self, number=len(self.coordinators)))

    def is_chaos(self):
        return self.loop.time() < CHAOS_S

    # --- what goes wrong ---

    async def _chaos(self):
        deeds = [
            (4, self._kill_coordinator),
            (2, self._split),
            (2, self._store_outage),
            (2, self._lose_answers),
            (1, self._step_date),
            (3, self._change_a_limit),
            (4, lambda: self._any_agent().die(away_s=self.rng.choice([0.1, 2, 20]))),
            (5, lambda: self._any_agent().break_stream()),
            (2, lambda: self._any_agent().freeze(self.rng.choice([3, 12, 40]))),
            (3, lambda: self.rng.choice(self.clients).break_stream()),
            (3, self._set_webhook),
            (8, self.operator.operate),
            (1, self._retry_webhooks),
            (3, self._pause_or_cordon),
            (2, self._resume_or_uncordon),
            (6, lambda: self._any_agent().fall_ill(self.rng.choice([5, 20, 60]))),
            (1, self._reset_breakers),
        ]
        pace_s = self.rng.choice([1.5, 4.0, 10.0])
        while self.is_chaos():
            await asyncio.sleep(self.rng.expovariate(1 / pace_s))
            (deed,) = self.rng.choices([deed for _, deed in deeds], [weight for weight, _ in deeds])
            deed()
            self._check()

    async def _calm(self):
        self.store_is_out, self.answers_are_lost = False, 0.0
        self._resume_or_uncordon(every=True)
        deadline_s = self.loop.time() + QUIET_WITHIN_S
        while not self._is_quiet():
            assert self.loop.time() < deadline_s, f"stuck: {self._stuck()}"
            await asyncio.sleep(5)
            self._resume_or_uncordon(every=True)  # whoever served when the calm began may have been fenced since
            self._check()
            if self.loop.time() > deadline_s - QUIET_WITHIN_S + SETTLED_WITHIN_S:
                self.auditor.nothing_is_overdue(self.date_ms())

    def _is_quiet(self):
        auditor = self.auditor
        clients_are_done = all(client.is_done for client in self.clients) and self.operator.is_done()
        return clients_are_done and auditor.all_have_ended() and auditor.webhooks_are_settled() and auditor.passing.nothing_is_left()

    async def _forget(self):
        """What has ended long enough ago is purged: nothing of it may be left in the store."""
        await asyncio.sleep(MIN_RETAINED_MS / 1000 + 60)
        self.operator.purge()
        while not self.operator.is_done():
            await asyncio.sleep(1)
            self._check()
        store = self.coordinators[-1].store
        while await store.expire_ended(DEFAULT_NAMESPACE, UNBOUNDED, limit=10):
            pass
        self.auditor.nothing_is_left()

    def _check(self):
        if self.loop.failure is not None:
            raise self.loop.failure
        self.auditor.catch_up()
        for coordinator in self.coordinators:
            coordinator.check()

    def _any_agent(self):
        return self.rng.choice(list(self.agents.values()))

    def _kill_coordinator(self):
        self.count("coordinator killed")
        for coordinator in self.coordinators:
            coordinator.kill()

    def coordinator_died(self):
        """Somebody starts the next one, unless there is one."""
        self.loop.call_later(self.rng.choice([0.0, 0.2, 3.0]), self._start_coordinator_if_none)

    def _start_coordinator_if_none(self):
        if not any(coordinator.alive for coordinator in self.coordinators):
            self._start_coordinator()

    def _split(self):
        """Another coordinator takes the shard, and the old one doesn't know. Its clients neither; it dies some time later."""
        self.count("split")
        old = [coordinator for coordinator in self.coordinators if coordinator.alive]
        self._start_coordinator()
        for coordinator in old:
            self.loop.call_later(self.rng.choice([1.0, 10.0, 40.0]), coordinator.kill)

    def _store_outage(self):
        self.count("outage")
        self.store_is_out = True
        self.loop.call_later(self.rng.choice([0.2, 2.0, 20.0]), self._store_is_back)

    def _store_is_back(self):
        self.store_is_out = False

    def _lose_answers(self):
        self.answers_are_lost = 0.5
        self.loop.call_later(5.0, self._answers_arrive)

    def _answers_arrive(self):
        self.answers_are_lost = 0.0

    def _step_date(self):
        """The store's clock is set: forward, or back."""
        self.count("date step")
        self._date_ahead_ms += self.rng.choice([-60_000, 60_000])

    def _set_webhook(self):
        """An operator sets or deletes the webhook of a type, or of every type."""
        task_type = self.rng.choice(["a", "b", "c", ""])
        url = self.rng.choice([GOOD_URL, GOOD_URL, BAD_URL, None])

        def change(scheduler, now):
            if url is None:
                delete_policy(scheduler, PolicyName(PolicyKind.WEBHOOK, task_type), now)
            else:
                set_policy(scheduler, WebhookPolicy(task_type, url, ALL_ENDS, ()), now)

        self._operate(change)

    def _retry_webhooks(self):
        """An operator has all webhooks tried again that were given up."""

        def again(scheduler, now):
            for number in list(scheduler.state.deliveries.given_up):
                retry(scheduler, number, now)
                self.count("webhook retried")

        self._operate(again)

    def _pause_or_cordon(self):
        """An operator pauses a type or everything, for a while or without an end, or cordons an agent; and waits for the answer."""
        rng = self.rng
        pause = PausePolicy(rng.choice(["a", "b", "c", "a*", ""]), "", rng.choice([0, 500, 5_000, 30_000]))
        self.loop.create_task(self._set(rng.choice([pause, pause, CordonPolicy(rng.choice(list(self.agents)))])))

    async def _set(self, policy):
        coordinator = self.coordinator_for(self)
        if coordinator is None:
            return
        shard = coordinator.shard
        try:
            namespace = shard.namespace(DEFAULT_NAMESPACE)
            shard.require_store()
            now = shard.now()
            set_policy(namespace.scheduler, policy, now)
            shard.decided(namespace, now)
            await shard.durable_write()
        except MusterError:
            return
        self.count(f"{policy.name.kind.name.lower()} answered")
        self.auditor.policy_answered(policy)

    def _resume_or_uncordon(self, *, every=False):
        """An operator lifts a pause or a cordon; or, as the calm begins, all of them."""

        def lift(scheduler, now):
            names = sorted(name for name in scheduler.state.policies if name.kind in (PolicyKind.PAUSE, PolicyKind.CORDON))
            for name in names if every or not names else [self.rng.choice(names)]:
                delete_policy(scheduler, name, now)

        self._operate(lift)

    def _reset_breakers(self):
        """An operator closes an agent's breakers."""
        agent = self._any_agent()
        self._operate(lambda scheduler, _: reset(scheduler, agent.name))

    def _operate(self, change):
        for coordinator in self.coordinators:
            namespace = coordinator.shard.namespaces.get(DEFAULT_NAMESPACE) if coordinator.alive else None
            if namespace is not None:
                now = coordinator.shard.now()
                change(namespace.scheduler, now)
                coordinator.shard.decided(namespace, now)

    def _change_a_limit(self):
        """An operator sets a limit, or deletes one. Nothing is held up for ever."""
        coordinator = self.coordinator_for(self)
        if coordinator is None:
            return
        shard = coordinator.shard
        try:
            namespace = shard.namespace(DEFAULT_NAMESPACE)
            shard.require_store()
        except MusterError:
            return
        self.count("limit changed")
        now = shard.now()
        names = sorted(namespace.scheduler.state.policies)
        if names and self.rng.random() < 0.3:
            delete_policy(namespace.scheduler, self.rng.choice(names), now)
        else:
            set_policy(namespace.scheduler, self._any_limit(), now)
        shard.decided(namespace, now)

    def _any_limit(self):
        rng = self.rng
        return rng.choice(
            [
                ConcurrencyLimitPolicy(rng.choice(["c1", "c*", "*"]), "", rng.randint(1, 2), rng.choice([WhenFull.WAIT, *WhenFull])),
                ConcurrencyLimitPolicy("", rng.choice("abc*"), rng.randint(1, 3)),
                RateLimitPolicy(rng.choice(["r1", "r*"]), "", rng.randint(1, 3), 20_000),
                RateLimitPolicy("", rng.choice("abc*"), rng.randint(1, 5), 10_000),
            ]
        )

    def _stuck(self):
        missing = [one for client in self.clients for one in client.tasks if one not in client.results]
        lines = []
        for coordinator in self.coordinators:
            if coordinator.alive and coordinator.shard.namespaces:
                scheduler = coordinator.shard.namespaces[DEFAULT_NAMESPACE].scheduler
                for one in missing:
                    task = scheduler.state.find(one)
                    lines.append(f"{task}: {explain(scheduler, task).summary}" if task is not None else f"{one} is not in memory")
        return lines
