"""Values by exact key, or by a prefix that ends in `*`: an exact key wins over all prefixes, a longer prefix over a shorter one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def covers(pattern: str, key: str) -> bool:
    """Whether a pattern matches a key."""
    return key.startswith(pattern[:-1]) if pattern.endswith("*") else key == pattern


class Patterns(Generic[T]):
    """Values by pattern. A look-up costs one step for each length that a prefix has."""

    __slots__ = ("_counts", "_lengths", "_values")

    def __init__(self) -> None:
        self._values: dict[str, T] = {}
        self._counts: Counter[int] = Counter()  # of the prefixes, by length
        self._lengths: list[int] = []  # that prefixes have, the longest first

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, pattern: str) -> T:
        return self._values[pattern]

    def get(self, pattern: str) -> T | None:
        """The value of a pattern itself."""
        return self._values.get(pattern)

    def set(self, pattern: str, value: T) -> None:
        """Gives a pattern a value."""
        if pattern not in self._values and pattern.endswith("*"):
            self._count(len(pattern) - 1, 1)
        self._values[pattern] = value

    def delete(self, pattern: str) -> None:
        """Forgets a pattern, if it is there."""
        if self._values.pop(pattern, None) is not None and pattern.endswith("*"):
            self._count(len(pattern) - 1, -1)

    def match(self, key: str) -> T | None:
        """The value of the best pattern that matches a key."""
        values = self._values
        if not values:
            return None
        if not key.endswith("*") and (value := values.get(key)) is not None:
            return value
        for length in self._lengths:
            if length <= len(key) and (value := values.get(f"{key[:length]}*")) is not None:
                return value
        return None

    def matches(self, key: str) -> Iterator[T]:
        """The values of all patterns that match a key; the same one twice, where a key is a pattern."""
        for pattern in (key, *(f"{key[:length]}*" for length in self._lengths if length <= len(key))):
            if pattern in self._values:
                yield self._values[pattern]

    def values(self) -> Iterator[T]:
        """All values."""
        yield from self._values.values()

    def _count(self, length: int, change: int) -> None:
        self._counts[length] += change
        if self._counts[length] == change or not self._counts[length]:
            self._lengths = sorted((length for length, count in self._counts.items() if count), reverse=True)
