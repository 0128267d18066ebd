"""What probes ask over HTTP: whether the process lives, whether it can do its work, and what it says of its shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from coordinator.cluster.health import Health, Report

NO_STORE = {"Cache-Control": "no-store"}


def add_health(app: web.Application, *, health: Health, version: str) -> None:
    """Adds `/livez`, `/readyz` and `/healthz`.

    Args:
        app: the application.
        health: is asked for each answer.
        version: the coordinator's, which `/healthz` tells.
    """

    async def live(_: web.Request) -> web.Response:
        return web.Response(text="live\n", headers=NO_STORE)

    async def ready(_: web.Request) -> web.Response:
        report = health.report()
        text = "ready\n" if report.is_ready else "".join(f"not ready: {reason}\n" for reason in report.reasons)
        return web.Response(text=text, status=_status(report), headers=NO_STORE)

    async def healthy(_: web.Request) -> web.Response:
        report = health.report()
        return web.json_response(_said(report, version), status=_status(report), headers=NO_STORE)

    app.add_routes([web.get("/livez", live), web.get("/readyz", ready), web.get("/healthz", healthy)])


def _status(report: Report) -> int:
    return 200 if report.is_ready else 503


def _said(report: Report, version: str) -> dict[str, object]:
    return {
        "live": True,
        "ready": report.is_ready,
        "reasons": report.reasons,
        "version": version,
        "shards": [
            {"shard": one.number, "state": one.state.value, "owner": one.owner, "for_s": round(one.for_s, 3)} for one in report.shards
        ],
    }
