"""One guard of core or engine, and what stands in its place once it is removed."""

from typing import NamedTuple

CORE = "coordinator/core/"
ENGINE = "coordinator/engine/"


class Mutation(NamedTuple):
    """One guard: `guard` occurs once in `path`."""

    name: str
    path: str
    guard: str
    instead: str
