"""A coordinator's memory is compared with the journal: what differs is found, whatever happens while the digest is taken."""

import pytest

from agent_node import RefusedError
from coordinator.admin.checking import LiveDigest
from tests.support.admin_stores import HERE, fill, fleet


def asks(client):
    """Asks a coordinator, as the command line does."""

    async def ask(number):
        said = await client.shard_digest(number)
        return LiveDigest(said.sequence, said.epoch, said.digest, said.release)

    return ask


async def test_what_memory_and_journal_differ_in_is_found(valkey):
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client)
        findings = await valkey.check(live=asks(client))
        assert not findings.violations
        assert findings.looked_at["live states compared"] == 2
        state = running.shards[HERE].namespaces["default"].scheduler.state
        task = state.tasks["waits-0"]
        for change, back in (
            (lambda: setattr(task, "retries", 1), lambda: setattr(task, "retries", 0)),
            (lambda: setattr(task, "fence", 1), lambda: setattr(task, "fence", 0)),
            (lambda: setattr(state.deliveries, "next_number", 9), lambda: setattr(state.deliveries, "next_number", 1)),
        ):
            change()
            found = await valkey.check(shards=[HERE], live=asks(client))
            back()
            assert [one.kind for one in found.violations] == ["live state"]
        assert not (await valkey.check(live=asks(client))).violations
        with pytest.raises(RefusedError):
            await client.shard_digest(99)
