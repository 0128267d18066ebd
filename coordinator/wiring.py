"""The one place that constructs and connects everything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from coordinator import convert_deliveries
from coordinator.clock import BootClock
from coordinator.cluster.directory import Directory, Owner
from coordinator.cluster.store_date import StoreDate
from coordinator.engine.room import StoreRoom, watch_room
from coordinator.engine.shard import DEFAULT_NAMESPACE, Shard
from coordinator.engine.snapshots import size_of_next
from coordinator.engine.sweeper import Sweeper
from coordinator.engine.webhooks import WebhookDispatcher
from coordinator.ids import Entropy
from coordinator.journal import codec
from coordinator.journal.layout import shard_of
from coordinator.journal.opening import Store, open_store
from coordinator.journal.server_binary import default_store_memory
from coordinator.loop_stalls import LoopStalls
from coordinator.rpc.admin_service import AdminService, Facts
from coordinator.rpc.agent_presence import AgentPresence
from coordinator.rpc.agent_service import AgentService
from coordinator.rpc.forwarding import Forwarding
from coordinator.rpc.peer_auth import PeerAuth
from coordinator.rpc.server import Server
from coordinator.rpc.shards import Shards
from coordinator.rpc.state_service import StateService
from coordinator.rpc.task_service import TaskService
from coordinator.state.current_limits import CurrentLimits
from coordinator.state.engine import StateEngine
from coordinator.webhooks.sender import HttpWebhookSender

if TYPE_CHECKING:
    from coordinator.ports import ShardStore, StoreGauge
    from coordinator.settings import CoordinatorSettings
    from coordinator.state.ports import StateStore

log = logging.getLogger(__name__)


class Coordinator:
    """A running coordinator: its port, and its end.

    Args:
        port: where it serves.
        facts: what it is.
        failed: done when a shard was lost: then it must end.
        shards: what it runs, by number.
        directory: who owns which shard.
        forwarding: takes calls to those owners.
    """

    def __init__(
        self,
        *,
        port: int,
        facts: Facts,
        failed: asyncio.Future[None],
        shards: Sequence[Shard],
        directory: Directory,
        forwarding: Forwarding,
    ) -> None:
        self.port = port
        self.facts = facts
        self.failed = failed
        self.shards = shards
        self.directory = directory
        self.forwarding = forwarding


@asynccontextmanager
async def coordinator(settings: CoordinatorSettings) -> AsyncIterator[Coordinator]:
    """Opens the store, recovers every shard, and serves until the block ends.

    Raises:
        StoreStartError: the store can't be used.
        ListenError: the address can't be listened on.
    """
    store = await open_store(
        data_dir=settings.data_dir,
        redis_url=settings.redis_url,
        shards=settings.shards,
        key_prefix=settings.key_prefix,
        memory_limit_bytes=settings.store_memory_bytes or default_store_memory(),
        wait_replicas=settings.wait_replicas,
    )
    try:
        for warning in store.report.warnings:
            log.warning("store.warning %s", warning)
        shard_stores = [store.shard(number) for number in range(settings.shards)]
        state_stores = [store.state(number) for number in range(settings.shards)]
        async with serve(settings, shard_stores, state_stores, describe(store), gauge=store, peer_secret=store.peer_secret) as running:
            yield running
    finally:
        await store.close()


def describe(store: Store) -> tuple[str, str]:
    """What the store is, and what it promises."""
    report = store.report
    embedded = "embedded " if store.server is not None else ""
    return f"{embedded}{report.product} {report.version}", report.durability


@asynccontextmanager
async def serve(
    settings: CoordinatorSettings,
    stores: Sequence[ShardStore],
    state_stores: Sequence[StateStore],
    store_facts: tuple[str, str],
    *,
    gauge: StoreGauge | None = None,
    peer_secret: bytes | None = None,
    directory: Directory | None = None,
) -> AsyncIterator[Coordinator]:
    """Recovers the shards of these stores, and serves them until the block ends.

    Without a `gauge` the store has room for anything, without a `peer_secret` there are no other coordinators, and without a `directory`
    this one owns all shards.
    """
    entropy, clock, room = Entropy(), BootClock(), StoreRoom()
    home = partial(shard_of, shards=settings.shards)
    start_ms = await stores[0].now_ms()
    rules = settings.bounds.webhooks
    sender = HttpWebhookSender(
        rules=rules,
        connect_s=settings.webhooks.connect_s,
        total_s=settings.webhooks.answer_s,
        user_agent=f"Muster/{version('muster-agents')}",
    )
    webhooks = WebhookDispatcher(sender=sender, codec=convert_deliveries, clock=clock, entropy=entropy, settings=settings.webhooks)
    shards = [
        Shard(
            number=number,
            store=shard_store,
            codec=codec,
            settings=settings.core,
            clock=clock,
            entropy=entropy,
            snapshots=settings.snapshots,
            room=room,
            default_here=home(DEFAULT_NAMESPACE) == number,
            webhooks_due=webhooks.due,
        )
        for number, shard_store in enumerate(stores)
    ]
    limits = [CurrentLimits(usual=settings.state, namespaces=shard.namespaces, room=room) for shard in shards]
    engines = [
        StateEngine(store=state_store, clock=clock, entropy=entropy, limits=of_shard)
        for state_store, of_shard in zip(state_stores, limits, strict=True)
    ]
    for shard, engine in zip(shards, engines, strict=True):
        shard.state = engine
    product, durability = store_facts
    facts = Facts(
        version=version("muster-agents"),
        instance_id=entropy.nonce()[:16],
        store=product,
        durability=durability,
        start_ms=start_ms,
    )
    stalls = LoopStalls(clock=clock)
    store_date = StoreDate(clock=clock, date_ms=start_ms, ask=stores[0].now_ms)
    forwarding = _forwarding(directory or _all_mine(settings), home, peer_secret or entropy.nonce().encode(), store_date)
    served = Shards(shards=shards, shard_of=home, directory=forwarding.directory)
    presence = AgentPresence(engines=engines)
    server = Server(
        tasks=TaskService(shards=served, bounds=settings.bounds, entropy=entropy),
        agents=AgentService(shards=served, bounds=settings.bounds, entropy=entropy, presence=presence),
        state=StateService(shards=served, engines=engines, limits=limits),
        admin=AdminService(shards=served, facts=facts, stalls=stalls, webhooks=webhooks, webhook_rules=rules, others=forwarding.others),
        forwarding=forwarding.interceptor,
    )
    sweeper = Sweeper(shards=shards, codec=codec, retention=settings.retention, period_s=settings.sweep_s)
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    endless = {
        "sweeper": sweeper.run(),
        "webhooks": webhooks.run(),
        "presence": presence.run(),
        "forwarding": forwarding.run(),
        "store-date": store_date.run(),
    }
    work = [asyncio.create_task(run, name=name) for name, run in endless.items()]
    if gauge is not None:
        reserve = partial(_next_snapshots, shards)
        work.append(asyncio.create_task(watch_room(room, gauge, reserve), name="room"))
    try:
        started = [asyncio.Event() for _ in shards]
        runs = zip(shards, started, strict=True)
        work += [asyncio.create_task(shard.run(event), name=f"shard-{shard.number}") for shard, event in runs]
        for task in work:
            task.add_done_callback(partial(_ended, failed))
        recovered = asyncio.gather(*(event.wait() for event in started))
        await asyncio.wait((recovered, failed), return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            recovered.cancel()
            failed.result()
        port = await server.start(settings.listen)
        yield Coordinator(port=port, facts=facts, failed=failed, shards=shards, directory=forwarding.directory, forwarding=forwarding)
    finally:
        stalls.close()
        await server.stop(settings.stop_grace_s)
        await forwarding.close()
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await sender.close()
        if not failed.done():
            failed.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            failed.exception()


def _forwarding(directory: Directory, home: Callable[[str], int], secret: bytes, store_date: StoreDate) -> Forwarding:
    auth = PeerAuth(secret=secret, me=directory.me, date_ms=store_date.now_ms)
    return Forwarding(directory=directory, shard_of=home, auth=auth)


def _all_mine(settings: CoordinatorSettings) -> Directory:
    me = settings.coordinator_id or settings.listen
    mine = Owner(coordinator_id=me, address=settings.advertise_address or settings.listen)
    return Directory(me=me, shards=settings.shards, owners=dict.fromkeys(range(settings.shards), mine))


def _next_snapshots(shards: Sequence[Shard]) -> int:
    return sum(size_of_next(shard.namespaces.values()) for shard in shards)


def _ended(failed: asyncio.Future[None], task: asyncio.Task[None]) -> None:
    """A task that must run for ever has ended: so does the coordinator, unless it is being stopped."""
    if task.cancelled() or failed.done():
        return
    error = task.exception()
    failed.set_exception(error if error is not None else RuntimeError(f"{task.get_name()} ended"))
