"""Changes of a value where it is. Without I/O."""

from dataclasses import dataclass

from coordinator.state.model import Compare, Origin


@dataclass(frozen=True, slots=True)
class MergePatch:
    """A JSON Merge Patch (RFC 7396), as it came. What isn't there begins as {}."""

    patch: bytes


@dataclass(frozen=True, slots=True)
class JsonPatch:
    """A JSON Patch (RFC 6902), as it came. What isn't there can't be patched."""

    patch: bytes


@dataclass(frozen=True, slots=True)
class Add:
    """A JSON number to add. What isn't there begins as 0."""

    number: str


@dataclass(frozen=True, slots=True)
class Append:
    """Items to append to a list, each as JSON. What isn't there begins as []."""

    items: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SetAdd:
    """Items to add to a list unless they are in it, each as JSON. What isn't there begins as []."""

    items: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SetRemove:
    """Items to take out of a list, each as JSON. What isn't there begins as []."""

    items: tuple[bytes, ...]


Change = MergePatch | JsonPatch | Add | Append | SetAdd | SetRemove


@dataclass(frozen=True, slots=True)
class Update:
    """Changes a key's value, if all `compares` hold. Refused without each lock of `locks` (name, token)."""

    key: str
    change: Change
    compares: tuple[Compare, ...] = ()
    locks: tuple[tuple[str, int], ...] = ()
    origin: Origin = Origin()
