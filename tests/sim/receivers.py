"""Receivers of webhooks in a simulation: they answer, fail, hang or want no more, and the auditor hears what they were told."""

import asyncio

from coordinator.ports import WebhookAnswer, WebhookVerdict

GOOD_URL, BAD_URL = "https://good.example/", "https://bad.example/"


class SimSender:
    """A coordinator's way to all receivers. What was sent by one that has died since has arrived all the same.

    Args:
        sim: the simulation.
        coordinator: whose way it is.
    """

    def __init__(self, *, sim, coordinator):
        self._sim = sim
        self._coordinator = coordinator

    async def send(self, *, url, secrets, event_id, date_s, body):
        sim, rng = self._sim, self._sim.rng
        if not self._coordinator.alive:
            await asyncio.Event().wait()
        sim.auditor.told(event_id, body)
        await asyncio.sleep(rng.choice([0.001, 0.05, 2.0, 15.0] if url == BAD_URL else [0.001, 0.05]))
        verdicts = [WebhookVerdict.DELIVERED]
        if sim.is_chaos():
            verdicts += [WebhookVerdict.FAILED, WebhookVerdict.UNREACHABLE] * (3 if url == BAD_URL else 1) + [WebhookVerdict.GONE]
        verdict = rng.choice(verdicts)
        sim.count(f"webhook {verdict.name.lower()}")
        if verdict is WebhookVerdict.DELIVERED:
            sim.auditor.answered_well.add(event_id)
        return WebhookAnswer(verdict, "as the receiver said", rng.choice([None, None, 30.0]))
