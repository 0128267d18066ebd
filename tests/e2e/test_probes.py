"""Liveness and readiness of a real coordinator whose store stands still, and goes on."""

from pathlib import Path

import aiohttp
import pytest

from tests.e2e.deployment import deployed
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.processes import Children

pytestmark = pytest.mark.e2e

WITHIN_S = 15.0  # a shard at rest asks its store every three seconds, and an outage must last for two


async def test_it_lives_all_the_time_and_is_ready_while_its_store_answers(children: Children, tmp_path: Path) -> None:
    port = free_port()
    async with deployed(children, tmp_path, "--http-listen", f"127.0.0.1:{port}") as deployment:
        await deployment.coordinator.wait_for_line(rf"http on 127\.0\.0\.1:{port}")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:

            async def status(path: str) -> int:
                async with http.get(path) as answer:
                    return answer.status

            async def is_ready(*, wanted: bool) -> bool:
                assert await status("/livez") == 200
                return (await status("/readyz") == 200) is wanted

            assert await is_ready(wanted=True)
            for _ in range(2):
                async with deployment.stopped_store():
                    await eventually(lambda: is_ready(wanted=False), within_s=WITHIN_S, message="it not to be ready")
                    async with http.get("/healthz") as answer:
                        said = await answer.json()
                        assert "out" in {shard["state"] for shard in said["shards"]}
                        assert said["reasons"][0].startswith("the store doesn't answer")
                await eventually(lambda: is_ready(wanted=True), within_s=WITHIN_S, message="it to be ready again")
            await deployment.kill_store()
            await eventually(lambda: is_ready(wanted=True), within_s=WITHIN_S, message="it to be ready with another store")


async def test_a_port_in_use_is_told_in_one_sentence(children: Children, tmp_path: Path) -> None:
    async with deployed(children, tmp_path) as deployment:
        taken = deployment.address
        other = deployment.spawn_coordinator("--data-dir", str(tmp_path / "other"), "--http-listen", taken)
        assert await other.wait_for_exit() == 1
        said = [line for line in other.output().splitlines() if line.startswith("muster-coordinator:")]
        why = f"can't listen on {taken}: it is in use, or isn't this machine's; choose another with --http-listen"
        assert said == [f"muster-coordinator: {why}"]
