"""Types that some agents of a class are shut out of, by breakers: their lanes have rooms of their own, which ask each agent.

All else of the class stays in the rooms that nobody asks for it. Work is proportional to the lanes of the type, as when it is paused.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.core.load_map import Agent, AgentClass, LoadMap, Room


def guard(load: LoadMap, agent: Agent, task_type: str) -> Collection[Room]:
    """An agent's breaker for a type has opened. Answers the rooms that lanes have gone to: whoever has space there looks again."""
    if task_type in agent.guarded:
        return ()
    agent.guarded[task_type] = False
    return () if agent.group is None else count_guards(load, agent.group, [task_type], 1)


def unguard(load: LoadMap, agent: Agent, task_type: str) -> None:
    """Its breaker for a type is closed again."""
    del agent.guarded[task_type]
    if agent.group is not None:
        count_guards(load, agent.group, [task_type], -1)


def count_guards(load: LoadMap, group: AgentClass, task_types: Collection[str], change: int) -> Collection[Room]:
    """So many more agents of a class have breakers for the types that aren't closed. Answers the rooms that lanes have gone to."""
    rooms: dict[Room, None] = {}
    for task_type in task_types:
        if task_type not in group.capabilities:
            continue
        before = group.guarded.get(task_type, 0)
        after = before + change
        moves = before == 0 or after == 0
        lanes = [lane for lane in load.lanes_of(task_type) if not lane.parked and group.can_take(lane.needs)] if moves else []
        for lane in lanes:
            group.unlink(lane)
        group.guarded[task_type] = after
        if not before:
            group.use((task_type, 1))  # whoever keeps an agent for a heavy task of the type asks there who could be
        elif not after:
            del group.guarded[task_type]
            group.disuse(group.rooms[task_type, 1])
        rooms |= {group.link(lane): None for lane in lanes}
        for _ in load.pools.follow(lanes):
            pass
    return rooms.keys()
