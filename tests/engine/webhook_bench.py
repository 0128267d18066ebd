"""A shard with a dispatcher of webhooks and scripted receivers, on a loop whose time jumps."""

import asyncio

from coordinator import convert_deliveries
from coordinator.core.model import Settings
from coordinator.core.submits import cancel
from coordinator.engine.intake import take_in_new
from coordinator.engine.shard import DEFAULT_NAMESPACE, Shard
from coordinator.engine.webhooks import WebhookDispatcher, WebhookSettings
from coordinator.journal import codec
from coordinator.journal.memory_store import Fault, MemoryShard, MemoryShardStore
from coordinator.ports import WebhookAnswer, WebhookVerdict
from tests.support.core_world import spec_of
from tests.support.virtual_loop import run_virtually

DAY_S = 24 * 3600
LIFE_S = 2 * 3600
SHORT = WebhookSettings(give_up_after_s=LIFE_S, max_backoff_s=1200)  # a day takes a second or two even here
DELIVERED = WebhookAnswer(WebhookVerdict.DELIVERED, "it answered 204")
FAILED = WebhookAnswer(WebhookVerdict.FAILED, "it answered 500")
UNREACHABLE = WebhookAnswer(WebhookVerdict.UNREACHABLE, "no answer in time")


class Middling:
    """Randomness that is always in the middle: no jitter."""

    def jitter(self):
        return 0.5

    def nonce(self):
        return f"{next(self._nonces)}"

    def __init__(self):
        self._nonces = iter(range(10**9))


class Bench:
    """A shard, its dispatcher, and receivers by host: what each answers, and after how long."""

    def __init__(self, loop, *, data=None, settings=SHORT):
        self.loop = loop
        self.faults = {}
        self.sent = []  # (time, host, webhook id)
        self.at_once = self.most_at_once = 0
        self.hosts = {}  # by name: (answer, after seconds)
        self.data = data or MemoryShard()
        store = MemoryShardStore(shard=self.data, now_ms=lambda: 1_700_000_000_000 + int(loop.time() * 1000), fault=self.fault)
        entropy = Middling()
        self.dispatcher = WebhookDispatcher(sender=self, codec=convert_deliveries, clock=self, entropy=entropy, settings=settings)
        self.shard = Shard(
            number=0,
            store=store,
            codec=codec,
            settings=Settings(),
            clock=self,
            entropy=entropy,
            default_here=True,
            webhooks_due=self.dispatcher.due,
        )

    def now_s(self):
        return self.loop.time()

    async def fault(self, call):
        await asyncio.sleep(0.001)
        return self.faults.get(call, Fault.NONE)

    async def send(self, *, url, secrets, event_id, date_s, body):
        host = url.removeprefix("https://").partition("/")[0]
        self.sent.append((self.loop.time(), host, event_id))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        answer, after_s = self.hosts.get(host, (DELIVERED, 0.01))
        try:
            await asyncio.sleep(after_s)
        finally:
            self.at_once -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def __aenter__(self):
        started = asyncio.Event()
        self.tasks = [asyncio.create_task(self.shard.run(started)), asyncio.create_task(self.dispatcher.run())]
        await started.wait()
        return self

    async def __aexit__(self, *error):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    @property
    def namespace(self):
        return self.shard.namespace(DEFAULT_NAMESPACE)

    @property
    def deliveries(self):
        return self.namespace.scheduler.state.deliveries

    def end(self, *task_ids, host="good", namespace=None):
        """Tasks with a webhook end."""
        namespace = namespace or self.namespace
        for task_id in task_ids:
            specs = [spec_of(task_id, webhook=f"https://{host}/hook")]
            assert take_in_new(self.shard, namespace, specs, None) == []
            cancel(namespace.scheduler, task_id, "enough", self.shard.now())
            self.shard.decided(namespace, self.shard.now())

    def times(self, host):
        return [round(at_s, 1) for at_s, name, _ in self.sent if name == host]


def on_a_bench(story, **options):
    async def main(loop):
        async with Bench(loop, **options) as bench:
            await story(bench)

    run_virtually(main)
