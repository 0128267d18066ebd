"""Liveness and readiness over HTTP and over gRPC, of a coordinator whose store goes away and comes back."""

import asyncio

import aiohttp
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.journal.memory_store import Fault, MemoryShard, MemoryShardStore, StoreCall
from coordinator.rpc.server import SERVICES, ListenError, Server
from coordinator.settings import CoordinatorSettings
from coordinator.state.memory_store import MemoryState, MemoryStateStore
from coordinator.wiring import serve
from tests.support.eventually import eventually
from tests.support.hosted import hosted
from tests.support.ports import free_port, is_listening

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
ANYWHERE = "127.0.0.1:0"


@pytest.fixture
async def muster():
    async with hosted(http_listen=ANYWHERE, unready_after_s=0.2) as muster:
        yield muster


@pytest.fixture
async def http(muster):
    async with aiohttp.ClientSession(f"http://127.0.0.1:{muster.running.http_port}") as session:
        yield session


async def asked(http, path):
    async with http.get(path) as answer:
        return answer.status, await answer.text()


async def test_a_coordinator_that_serves_is_live_and_ready(http):
    assert await asked(http, "/livez") == (200, "live\n")
    assert await asked(http, "/readyz") == (200, "ready\n")
    async with http.get("/healthz") as answer:
        said = await answer.json()
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    assert (said["live"], said["ready"], said["reasons"]) == (True, True, [])
    [shard] = said["shards"]
    assert (shard["shard"], shard["state"], shard["for_s"]) == (0, "serving", 0)
    assert shard["owner"]
    assert said["version"]


async def test_nothing_else_is_answered(http):
    assert (await asked(http, "/"))[0] == 404
    async with http.post("/readyz") as answer:
        assert answer.status == 405
    async with http.head("/readyz") as answer:
        assert answer.status == 200


async def test_an_outage_is_a_matter_of_readiness_alone_and_watches_hear_of_it(muster, http):
    stub = health_pb2_grpc.HealthStub(muster.channel)
    watches = {service: stub.Watch(health_pb2.HealthCheckRequest(service=service)) for service in ("", *SERVICES)}
    for watch in watches.values():
        assert (await watch.read()).status == SERVING
    muster.faults.appends = Fault.BEFORE
    submitting = asyncio.create_task(muster.submit("task"))
    for watch in watches.values():
        assert (await asyncio.wait_for(watch.read(), 10)).status == NOT_SERVING
    assert await asked(http, "/livez") == (200, "live\n")
    status, text = await asked(http, "/readyz")
    assert status == 503
    assert text.startswith("not ready: the store doesn't answer, for ")
    async with http.get("/healthz") as answer:
        said = await answer.json()
        assert answer.status == 503
    assert (said["live"], said["ready"], said["shards"][0]["state"]) == (True, False, "out")
    assert said["shards"][0]["for_s"] > 0.2
    muster.faults.over()
    await submitting
    for watch in watches.values():
        assert (await asyncio.wait_for(watch.read(), 10)).status == SERVING
    assert (await asked(http, "/readyz"))[0] == 200


async def test_readiness_goes_before_anything_else_ends(monkeypatch):
    seen = []
    stop = Server.stop

    async def spy(self, grace_s):
        async with aiohttp.ClientSession(f"http://127.0.0.1:{muster.running.http_port}") as http:
            seen.append((await asked(http, "/readyz"), await asked(http, "/livez"), muster.running.shards[0].serving))
        await stop(self, grace_s)

    monkeypatch.setattr(Server, "stop", spy)
    async with hosted(http_listen=ANYWHERE) as muster:
        watch = health_pb2_grpc.HealthStub(muster.channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == SERVING
    assert seen == [((503, "not ready: it is ending\n"), (200, "live\n"), True)]


async def test_a_port_in_use_is_told_in_one_sentence():
    port = free_port()
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    async with taken:
        with pytest.raises(ListenError, match=rf"^can't listen on 127\.0\.0\.1:{port}: it is in use.*--http-listen$"):
            async with hosted(http_listen=f"127.0.0.1:{port}"):
                pytest.fail("it began")


async def test_it_is_off_unless_asked_for():
    async with hosted() as muster:
        assert muster.running.http_port == 0


async def test_it_is_live_and_not_ready_while_it_recovers():
    port, may_claim = free_port(), asyncio.Event()

    async def hold(call):
        if call is StoreCall.CLAIM:
            await may_claim.wait()
        return Fault.NONE

    store = MemoryShardStore(shard=MemoryShard(), now_ms=lambda: 1_000, fault=hold)
    state_store = MemoryStateStore(state=MemoryState(), owns=store.owns, now_ms=lambda: 1_000)
    settings = CoordinatorSettings(listen=ANYWHERE, shards=1, http_listen=f"127.0.0.1:{port}", stop_grace_s=0.0)
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def run():
        async with serve(settings, [store], [state_store], ("memory", "nothing survives")):
            has_begun.set()
            await may_end.wait()

    running = asyncio.create_task(run())
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        await eventually(lambda: is_listening(port), message="it to answer")
        assert (await asked(http, "/livez"))[0] == 200
        assert await asked(http, "/readyz") == (503, "not ready: it is starting: what is its own isn't recovered yet\n")
        may_claim.set()
        await asyncio.wait_for(has_begun.wait(), 10)
        assert (await asked(http, "/readyz"))[0] == 200
    may_end.set()
    await running
