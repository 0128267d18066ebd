"""JSON Merge Patch (RFC 7396), and JSON Patch (RFC 6902) with JSON Pointer (RFC 6901). Without I/O.

What a patch costs is bounded: by its own size, by the number of its operations, and by what they copy, which could double with each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, cast

from coordinator.state.json_values import Json, identity

MAX_OPERATIONS = 1_000  # each may move all items of a list
MAX_COPIED_VALUES = 250_000  # by one patch: some 50 ms


class Missing(Enum):
    """There is no value; null would be one."""

    MISSING = 1


MISSING: Final = Missing.MISSING


class PatchError(ValueError):
    """An operation is wrong, or doesn't apply. `index` is its place in the patch, `path` where it fails."""

    def __init__(self, message: str, *, index: int, path: str) -> None:
        super().__init__(message)
        self.index = index
        self.path = path


class _Fails(ValueError):
    """Why an operation doesn't apply."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a JSON Patch, checked as far as it can be without a value. `source` is its member `from`, split as `path`."""

    op: str
    path: tuple[str, ...]
    pointer: str
    source: tuple[str, ...] = ()
    value: Json = None


def merged(target: Json | Missing, patch: Json) -> Json:
    """A value after a merge patch. May change `target`; `patch` stays as it is."""
    if not isinstance(patch, dict):
        return patch
    result = target if isinstance(target, dict) else {}
    for name, member in patch.items():
        if member is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), member)
    return result


def operations(patch: Json) -> tuple[Operation, ...]:
    """The operations of a JSON Patch. Raises PatchError."""
    if not isinstance(patch, list):
        raise PatchError("a JSON Patch is a list of operations", index=0, path="")
    if len(patch) > MAX_OPERATIONS:
        raise PatchError(f"the patch has {len(patch)} operations: at most {MAX_OPERATIONS} are allowed", index=MAX_OPERATIONS, path="")
    return tuple(_operation(item, index) for index, item in enumerate(patch))


def _operation(item: Json, index: int) -> Operation:
    if not isinstance(item, dict):
        raise PatchError("it is no object", index=index, path="")
    pointer = item.get("path")
    if not isinstance(pointer, str):
        raise PatchError("it has no `path`", index=index, path="")
    op = item.get("op")
    try:
        path = _split(pointer)
        match op:
            case "add" | "replace" | "test":
                if "value" not in item:
                    raise _Fails("it has no `value`")
                return Operation(op, path, pointer, value=item["value"])
            case "remove":
                return Operation(op, path, pointer)
            case "move" | "copy":
                if not isinstance(item.get("from"), str):
                    raise _Fails("it has no `from`")
                source = _split(item["from"])
                if op == "move" and len(source) < len(path) and path[: len(source)] == source:
                    raise _Fails("a value can't be moved into itself")
                return Operation(op, path, pointer, source)
            case _:
                raise _Fails("its `op` is none of add, remove, replace, move, copy and test")
    except _Fails as failure:
        raise PatchError(str(failure), index=index, path=pointer) from None


def _split(pointer: str) -> tuple[str, ...]:
    if not pointer:
        return ()
    if not pointer.startswith("/"):
        raise _Fails(f"the pointer {pointer!r} doesn't begin with /")
    tokens = pointer[1:].split("/")
    for token in tokens:
        rest = token.replace("~0", "").replace("~1", "")
        if "~" in rest:
            raise _Fails(f"in the pointer {pointer!r}, ~ is followed by neither 0 nor 1")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in tokens)


def patched(document: Json | Missing, patch: Sequence[Operation]) -> Json | Missing:
    """A value after all operations of a patch. May change `document`, even if it fails; `patch` stays as it is.

    Raises:
        PatchError: an operation doesn't apply.
    """
    run = _Run(document)
    for index, operation in enumerate(patch):
        try:
            run.apply(operation)
        except _Fails as failure:
            raise PatchError(str(failure), index=index, path=operation.pointer) from None
    return run.document


class _Run:
    def __init__(self, document: Json | Missing) -> None:
        self.document = document
        self._copies = MAX_COPIED_VALUES

    def apply(self, operation: Operation) -> None:
        path = operation.path
        match operation.op:
            case "add":
                self._add(path, self._copy(operation.value))
            case "remove":
                self._remove(path)
            case "replace":
                self._find(path)
                self._replace(path, self._copy(operation.value))
            case "move":
                if operation.source == path:
                    self._find(path)
                else:
                    self._add(path, self._remove(operation.source))
            case "copy":
                self._add(path, self._copy(self._find(operation.source)))
            case _:
                if identity(self._find(path)) != identity(operation.value):
                    raise _Fails("the value there is another one")

    def _find(self, path: Sequence[str]) -> Json:
        if self.document is MISSING:
            raise _Fails("the key isn't there")
        value = self.document
        for depth, token in enumerate(path):
            if isinstance(value, list):
                value = value[_index(token, len(value) - 1)]
            elif isinstance(value, dict) and token in value:
                value = value[token]
            else:
                raise _Fails(f"there is no {_shown(path[: depth + 1])}")
        return value

    def _add(self, path: Sequence[str], value: Json) -> None:
        if not path:
            self.document = value
            return
        parent, last = self._find(path[:-1]), path[-1]
        if isinstance(parent, list):
            parent.insert(len(parent) if last == "-" else _index(last, len(parent)), value)
        elif isinstance(parent, dict):
            parent[last] = value
        else:
            raise _Fails(f"{_shown(path[:-1])} is neither an object nor a list")

    def _replace(self, path: Sequence[str], value: Json) -> None:
        if not path:
            self.document = value
            return
        parent = self._find(path[:-1])
        parent[_index(path[-1], len(parent) - 1) if isinstance(parent, list) else path[-1]] = value

    def _remove(self, path: Sequence[str]) -> Json:
        value = self._find(path)
        if not path:
            self.document = MISSING
            return value
        parent = self._find(path[:-1])
        del parent[_index(path[-1], len(parent) - 1) if isinstance(parent, list) else path[-1]]
        return value

    def _copy(self, value: Json) -> Json:
        self._copies -= 1
        if self._copies < 0:
            raise _Fails(f"the patch copies more than {MAX_COPIED_VALUES} values: make it smaller")
        if isinstance(value, dict):
            return {name: self._copy(member) for name, member in value.items()}
        if isinstance(value, list):
            return [self._copy(item) for item in value]
        return value


def _index(token: str, most: int) -> int:
    if not (token.isascii() and token.isdigit()) or (len(token) > 1 and token[0] == "0"):
        raise _Fails(f"{token!r} is no place in a list")
    if len(token) > 9 or int(token) > most:
        raise _Fails(f"the list has no place {token}")
    return int(token)


def _shown(path: Sequence[str]) -> str:
    return repr("/" + "/".join(path)) if path else "the whole value"


def as_document(value: Json | Missing) -> Json:
    """What a patch left. Raises PatchError when it took the whole away."""
    if value is MISSING:
        raise PatchError("it takes the whole value away: use Delete", index=0, path="")
    return cast("Json", value)
