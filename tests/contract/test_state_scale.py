"""Shared state with many keys: what a page of keys costs the store doesn't depend on how many there are.

`make scale` does this with a million keys. Costs are the store's own: commands, and the microseconds that it says it needed for them.
"""

import statistics

import pytest

from coordinator.state.model import Put, Transaction
from tests.support.state_backings import StateWriter

FEW = 1_000
PER_TRANSACTION = 500
PAGE = 100
CALLS = 60
NAMES = "k/{:07}"


@pytest.fixture
def many(pytestconfig) -> int:
    """How many keys."""
    return pytestconfig.getoption("state_keys")


async def fill(writer: StateWriter, begin: int, end: int) -> None:
    """Keys of these numbers."""
    for first in range(begin, end, PER_TRANSACTION):
        numbers = range(first, min(first + PER_TRANSACTION, end))
        await writer.batch(Transaction(tuple(Put(NAMES.format(number), b"v%d" % number) for number in numbers)))


class Costs:
    """What calls cost the server, by its own account.

    Args:
        client: of the server.
    """

    def __init__(self, client) -> None:
        self._client = client

    async def of(self, call) -> tuple[dict[str, int], float]:
        """The commands of a call, and its microseconds."""
        await self._client.config_resetstat()
        await call()
        stats = await self._client.info("commandstats")
        scripts = sum(each["usec"] for name, each in stats.items() if name.startswith(("cmdstat_evalsha", "cmdstat_eval")))
        calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
        return {name: number for name, number in calls.items() if not name.startswith(("config", "info"))}, scripts


async def page_costs(writer: StateWriter, costs: Costs, count: int) -> tuple[dict[str, int], float]:
    """What a page costs at the beginning, in the middle and towards the end: the commands of the dearest, and the median time."""
    times, most = [], {}
    for number in range(CALLS):
        after = NAMES.format(number % 3 * (count - PAGE - 1) // 2)

        async def page(after=after, bare=number % 2 == 0) -> None:
            found = await writer.store.list("default", prefix="k/", after=after, limit=PAGE, max_bytes=10**9, keys_only=bare)
            assert len(found.entries) == PAGE
            assert found.entries[0].key > after

        commands, took_us = await costs.of(page)
        times.append(took_us)
        most = {name: max(most.get(name, 0), commands.get(name, 0)) for name in {*most, *commands}}
    return most, statistics.median(times)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("server_state", ["valkey"], indirect=True)
async def test_a_page_costs_the_same_however_many_keys_there_are(server_state, server_writer, many):
    costs = Costs(server_state.client)
    await fill(server_writer, 0, FEW)
    await page_costs(server_writer, costs, FEW)  # from now on the server knows the connection and the script
    few_commands, few_us = await page_costs(server_writer, costs, FEW)
    await fill(server_writer, FEW, many)
    many_commands, many_us = await page_costs(server_writer, costs, many)
    print(f"a page of {PAGE}: {few_us:.0f} us of {FEW} keys, {many_us:.0f} us of {many}; {many_commands}")
    assert many_commands == few_commands
    assert (
        many_us < 10 * few_us
    )  # what isn't in the processor's cache takes longer; going over all keys would take a thousand times as long
    # All of them, page by page, each once and in order.
    after, found = "", 0
    while after is not None:
        page = await server_writer.store.list("default", prefix="k/", after=after, limit=1_000, max_bytes=10**9, keys_only=True)
        assert [entry.key for entry in page.entries] == [NAMES.format(number) for number in range(found, found + len(page.entries))]
        found, after = found + len(page.entries), page.after
    assert found == many
    assert (await server_writer.facts()).keys == many
