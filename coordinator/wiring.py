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
from coordinator.cluster.cluster import Cluster
from coordinator.cluster.directory import Directory
from coordinator.cluster.health import Health
from coordinator.cluster.lone_registry import LoneRegistry
from coordinator.cluster.ports import Member
from coordinator.cluster.store_date import StoreDate
from coordinator.engine.room import StoreRoom, watch_room
from coordinator.engine.shard import DEFAULT_NAMESPACE, Shard
from coordinator.engine.snapshots import size_of_next
from coordinator.engine.sweeper import Sweeper
from coordinator.engine.webhooks import WebhookDispatcher
from coordinator.http.probes import Probes
from coordinator.identity import address_of, host_name, id_of
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
    from coordinator.cluster.ports import MemberRegistry
    from coordinator.ports import Clock, ShardStore, StoreGauge
    from coordinator.settings import CoordinatorSettings
    from coordinator.state.ports import StateStore

log = logging.getLogger(__name__)

LEAVE_S = 2.0  # how long a coordinator that ends tries to hand over what it owns
MIN_REGISTRY_TIMEOUT_S = 0.5


class Coordinator:
    """A running coordinator: its port, and its end.

    Args:
        port: where it serves.
        facts: what it is.
        failed: done when a shard was lost: then it must end.
        shards: what it runs, by number.
        directory: who owns which shard.
        forwarding: takes calls to those owners.
        http_port: where it answers over HTTP; 0 where it doesn't.
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
        http_port: int = 0,
    ) -> None:
        self.port = port
        self.facts = facts
        self.failed = failed
        self.shards = shards
        self.directory = directory
        self.forwarding = forwarding
        self.http_port = http_port


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
        async with serve(
            settings,
            shard_stores,
            state_stores,
            describe(store),
            gauge=store,
            peer_secret=store.peer_secret,
            registry=store.registry(call_timeout_s=max(settings.ownership_ttl_s / 2, MIN_REGISTRY_TIMEOUT_S)),
        ) as running:
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
    registry: MemberRegistry | None = None,
) -> AsyncIterator[Coordinator]:
    """Listens, takes its share of the shards of these stores, recovers them, and serves them until the block ends.

    Without a `gauge` the store has room for anything, without a `registry` there are no other coordinators, and calls go by what
    the cluster knows if no `directory` says otherwise.
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
    make = partial(Shard, codec=codec, settings=settings.core, clock=clock, entropy=entropy, snapshots=settings.snapshots, room=room)
    shards = [
        make(number=number, store=shard_store, default_here=home(DEFAULT_NAMESPACE) == number, webhooks_due=webhooks.due)
        for number, shard_store in enumerate(stores)
    ]
    limits = [CurrentLimits(usual=settings.state, namespaces=shard.namespaces, room=room) for shard in shards]
    engines = [
        StateEngine(store=state_store, clock=clock, entropy=entropy, limits=of_shard)
        for state_store, of_shard in zip(state_stores, limits, strict=True)
    ]
    for shard, engine in zip(shards, engines, strict=True):
        shard.state = engine
    facts = Facts(
        version=version("muster-agents"),
        instance_id=entropy.nonce()[:16],
        store=store_facts[0],
        durability=store_facts[1],
        start_ms=start_ms,
    )
    stalls = LoopStalls(clock=clock)
    store_date = StoreDate(clock=clock, date_ms=start_ms, ask=stores[0].now_ms)
    cluster, owners = _cluster(settings, registry, shards, facts, clock)
    forwarding = _forwarding(directory or owners, home, peer_secret or entropy.nonce().encode(), store_date, shards)
    served = Shards(shards=shards, shard_of=home, directory=forwarding.directory)
    presence = AgentPresence(engines=engines)
    server = Server(
        tasks=TaskService(shards=served, bounds=settings.bounds, entropy=entropy),
        agents=AgentService(shards=served, bounds=settings.bounds, entropy=entropy, presence=presence),
        state=StateService(shards=served, engines=engines, limits=limits),
        admin=AdminService(
            shards=served, facts=facts, stalls=stalls, webhooks=webhooks, webhook_rules=rules, others=forwarding.others, cluster=cluster
        ),
        forwarding=forwarding.interceptor,
    )
    probes = Probes(
        health=Health(shards=shards, directory=forwarding.directory, clock=clock, patience_s=settings.unready_after_s),
        tell=server.tell_readiness,
        version=facts.version,
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
        await probes.start(settings.http_listen)  # it lives while it recovers
        port = await server.start(settings.listen)  # before it claims anything: who has bound the address has it for itself
        cluster.reached(address=address_of(settings.listen, port=port, advertised=settings.advertise_address), listen=settings.listen)
        await _begin(cluster, work, failed)
        await probes.started()
        yield Coordinator(
            port=port,
            facts=facts,
            failed=failed,
            shards=shards,
            directory=forwarding.directory,
            forwarding=forwarding,
            http_port=probes.port,
        )
    finally:
        await probes.ending()  # first of all, so that nobody new comes
        stalls.close()
        if cluster.has_others:  # they go on at once, and this one forwards to them
            await cluster.leave(within_s=LEAVE_S)
        await server.stop(settings.stop_grace_s)
        await forwarding.close()
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await cluster.gone()
        await probes.stop()
        await sender.close()
        _settle(failed)


def _forwarding(
    directory: Directory, home: Callable[[str], int], secret: bytes, store_date: StoreDate, shards: Sequence[Shard]
) -> Forwarding:
    auth = PeerAuth(secret=secret, me=directory.me, date_ms=store_date.now_ms)
    return Forwarding(directory=directory, shard_of=home, auth=auth, is_served=lambda number: shards[number].serving)


def _cluster(
    settings: CoordinatorSettings, registry: MemberRegistry | None, shards: Sequence[Shard], facts: Facts, clock: Clock
) -> tuple[Cluster, Directory]:
    name = id_of(settings.listen, advertised=settings.advertise_address, given=settings.coordinator_id, nonce=facts.instance_id)
    me = Member(coordinator_id=name, address="", incarnation=facts.instance_id, host=host_name(), start_ms=facts.start_ms)
    owners = Directory(me=name, shards=settings.shards)
    cluster = Cluster(
        me=me,
        lease_s=settings.ownership_ttl_s,
        alone=registry is None,
        registry=registry or LoneRegistry(),
        shards=shards,
        directory=owners,
        clock=clock,
    )
    return cluster, owners


def _next_snapshots(shards: Sequence[Shard]) -> int:
    return sum(size_of_next(shard.namespaces.values()) for shard in shards)


async def _begin(cluster: Cluster, work: list[asyncio.Task[None]], failed: asyncio.Future[None]) -> None:
    """Returns once all is served that is ours to begin with. From now on `failed` follows `work`, and raises here what it is."""
    ready = asyncio.Event()
    work.append(asyncio.create_task(cluster.run(ready), name="cluster"))
    for task in work:
        task.add_done_callback(partial(_ended, failed))
    recovered = asyncio.ensure_future(ready.wait())
    await asyncio.wait((recovered, failed), return_when=asyncio.FIRST_COMPLETED)
    recovered.cancel()
    if failed.done():
        failed.result()


def _settle(failed: asyncio.Future[None]) -> None:
    """Nobody waits for it any more, whether something failed or not."""
    if not failed.done():
        failed.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        failed.exception()


def _ended(failed: asyncio.Future[None], task: asyncio.Task[None]) -> None:
    """A task that must run for ever has ended: so does the coordinator, unless it is being stopped."""
    if task.cancelled() or failed.done():
        return
    error = task.exception()
    failed.set_exception(error if error is not None else RuntimeError(f"{task.get_name()} ended"))
