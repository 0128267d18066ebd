"""Shared state on a store that has gone back: it goes on above what anybody has seen, and says what is missing."""

import asyncio
import copy

import pytest

from coordinator.errors import Unavailable
from tests.support.state_world import NAMESPACE, StateWorld, in_world


def back_to(world: StateWorld, earlier: object) -> None:
    """The store is as it was."""
    world.state.namespaces = copy.deepcopy(earlier)


async def two_of_three_lost(world: StateWorld) -> str:
    """Three puts, and the store goes back behind two of them. Answers the incarnation."""
    await world.put("kept")
    earlier = copy.deepcopy(world.state.namespaces)
    incarnation = world.engine.header(NAMESPACE).incarnation
    await world.put("lost")
    await world.put("lost too")
    back_to(world, earlier)
    return incarnation


def assert_above(world: StateWorld, incarnation: str) -> None:
    header = world.engine.header(NAMESPACE)
    assert header.revision >= 3
    assert header.incarnation != incarnation
    assert world.state.namespaces[NAMESPACE].revision >= 3
    assert world.engine.lost_revisions == 2


@in_world
async def test_a_write_goes_on_above_them(world: StateWorld) -> None:
    incarnation = await two_of_three_lost(world)
    assert (await world.put("new")).revision == 4
    assert_above(world, incarnation)


@in_world
async def test_a_read_is_refused_until_the_store_goes_on_above_them(world: StateWorld) -> None:
    incarnation = await two_of_three_lost(world)
    with pytest.raises(Unavailable, match="lost writes"):
        await world.get("lost")
    await asyncio.sleep(0.1)
    assert await world.value("lost") is None
    assert await world.value("kept") is not None
    assert_above(world, incarnation)


@in_world
async def test_a_list_is_likewise(world: StateWorld) -> None:
    incarnation = await two_of_three_lost(world)
    with pytest.raises(Unavailable, match="lost writes"):
        await world.engine.facts(NAMESPACE)
    await asyncio.sleep(0.1)
    assert (await world.engine.facts(NAMESPACE)).revision == 3
    assert_above(world, incarnation)


@in_world
async def test_so_does_a_shard_that_was_rebuilt(world: StateWorld) -> None:
    incarnation = await two_of_three_lost(world)
    await world.stop()
    await world.start()
    await asyncio.sleep(0.1)
    assert_above(world, incarnation)
    assert (await world.put("new")).revision == 4


@in_world
async def test_a_namespace_that_was_deleted_begins_anew(world: StateWorld) -> None:
    await two_of_three_lost(world)
    world.engine.forget(NAMESPACE)
    world.state.namespaces.clear()
    world.engine.open(NAMESPACE)
    assert (await world.put("new")).revision == 1
    assert world.engine.lost_revisions == 0
