"""Which watches an event concerns: at a cost that doesn't depend on how many others there are. Without I/O."""

from collections.abc import Iterator
from typing import Generic, TypeVar

W = TypeVar("W")


class WatchIndex(Generic[W]):
    """Watches by their key, or by what keys begin with."""

    def __init__(self) -> None:
        self._keys: dict[str, dict[W, None]] = {}
        self._prefixes: dict[str, dict[W, None]] = {}
        self._lengths: dict[int, int] = {}  # of prefixes, and how many have it: an event asks once for each

    def add(self, watch: W, key: str, *, is_prefix: bool) -> None:
        """Takes a watch in."""
        found = self._prefixes if is_prefix else self._keys
        if key not in found:
            found[key] = {}
            if is_prefix:
                self._lengths[len(key)] = self._lengths.get(len(key), 0) + 1
        found[key][watch] = None

    def remove(self, watch: W, key: str, *, is_prefix: bool) -> None:
        """Takes it out again, if it is in."""
        found = self._prefixes if is_prefix else self._keys
        held = found.get(key)
        if held is None or watch not in held:
            return
        del held[watch]
        if not held:
            del found[key]
            if is_prefix:
                self._lengths[len(key)] -= 1
                if not self._lengths[len(key)]:
                    del self._lengths[len(key)]

    def concerned(self, key: str) -> list[W]:
        """The watches that see an event of this key."""
        found = list(self._keys.get(key, ()))
        for length in self._lengths:
            if length <= len(key) and (held := self._prefixes.get(key[:length])):
                found += held
        return found

    def __len__(self) -> int:
        return sum(map(len, self._keys.values())) + sum(map(len, self._prefixes.values()))

    def __bool__(self) -> bool:
        return bool(self._keys or self._prefixes)

    def __iter__(self) -> Iterator[W]:
        for found in (self._keys, self._prefixes):
            for held in found.values():
                yield from held
