"""Changes of a value where it is: what can be asked for, and what comes of it. Without I/O."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, Inexact, InvalidOperation, Overflow
from functools import partial
from typing import assert_never, cast

from coordinator.errors import InvalidRequest
from coordinator.state.json_patch import MISSING, Missing, Operation, PatchError, as_document, merged, operations, patched
from coordinator.state.json_values import Json, NotJson, decoded, encoded, identity, is_number
from coordinator.state.model import MAX_VALUE_BYTES, Compare, Origin

_NOBODY = Origin()


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
    origin: Origin = _NOBODY


# --- what they do -------------------------------------------------------------------------------------------------------------------

Step = Callable[[Json | Missing], Json]
"""Makes the new value from the present one, or from its absence, and may change that. Raises InvalidRequest."""

_EXACT = Context(prec=4_300, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[Inexact, Overflow, InvalidOperation])


def step_of(change: Change) -> Step:
    """What a change does.

    Raises:
        InvalidRequest: it could never be done; `field` names the member of UpdateRequest, and for a JSON Patch `metadata` the operation.
    """
    match change:
        case MergePatch(patch):
            wanted = _decoded(patch, "merge_patch")
            return lambda value: merged(value, wanted)
        case JsonPatch(patch):
            try:
                steps = operations(_decoded(patch, "json_patch"))
            except PatchError as error:
                raise _patch_refused(error, "INVALID_FIELD") from None
            return partial(_patched, steps)
        case Add(number):
            return partial(_sum, _number(number))
        case Append(items):
            more = [_decoded(item, f"append.items[{index}]") for index, item in enumerate(items)]
            return lambda value: _list(value, "append") + more
        case SetAdd(items):
            more = [_decoded(item, f"set_add.items[{index}]") for index, item in enumerate(items)]
            return lambda value: _with(_list(value, "set_add"), more)
        case SetRemove(items):
            gone = {_identified(item, f"set_remove.items[{index}]") for index, item in enumerate(items)}
            return lambda value: [item for item in _list(value, "set_remove") if identity(item) not in gone]
        case _:
            assert_never(change)


FIELDS: dict[type, str] = {
    MergePatch: "merge_patch",
    JsonPatch: "json_patch",
    Add: "add",
    Append: "append",
    SetAdd: "set_add",
    SetRemove: "set_remove",
}
"""What UpdateRequest calls a change."""


def value_after(value: bytes | None, step: Step, field: str) -> bytes:
    """A value after a change.

    Args:
        value: the present one; None when the key isn't there.
        step: of `step_of`.
        field: of FIELDS.

    Raises:
        InvalidRequest: it can't be done to this value.
    """
    try:
        present: Json | Missing = MISSING if value is None else decoded(value)
    except NotJson as error:
        raise _failed(f"what the key has is no JSON: {error}", field) from None
    try:
        changed = encoded(step(present))
    except (NotJson, RecursionError) as error:
        raise _failed(f"the value can't become that: {error}", field) from None
    if len(changed) > MAX_VALUE_BYTES:
        raise InvalidRequest(
            f"the value would have {len(changed)} bytes: at most {MAX_VALUE_BYTES} are allowed",
            field=field,
            reason="VALUE_TOO_LARGE",
            metadata={"limit": str(MAX_VALUE_BYTES), "size": str(len(changed))},
        )
    return changed


def _failed(message: str, field: str) -> InvalidRequest:
    return InvalidRequest(message, field=field, reason="PATCH_FAILED")


def _decoded(text: bytes | str, field: str) -> Json:
    try:
        return decoded(text)
    except NotJson as error:
        raise InvalidRequest(f"{field} is no JSON: {error}", field=field) from None


def _identified(text: bytes, field: str) -> Hashable:
    try:
        return identity(_decoded(text, field))
    except NotJson as error:
        raise InvalidRequest(f"{field} can't be looked for: {error}", field=field) from None


def _patch_refused(error: PatchError, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"json_patch[{error.index}]{f' at {error.path!r}' if error.path else ''}: {error}",
        field="json_patch",
        reason=reason,
        metadata={"index": str(error.index), "path": error.path},
    )


def _patched(steps: Sequence[Operation], value: Json | Missing) -> Json:
    try:
        return as_document(patched(value, steps))
    except PatchError as error:
        raise _patch_refused(error, "PATCH_FAILED") from None


def _number(text: str) -> int | Decimal:
    number = _decoded(text, "add")
    if not is_number(number):
        raise InvalidRequest("add is no number: give one as JSON has it, such as 1, -2.5 or 1e3", field="add")
    return cast("int | Decimal", number)


def _sum(number: int | Decimal, value: Json | Missing) -> Json:
    if value is MISSING:
        return number
    if not is_number(value):
        raise _failed("what the key has is no number, so nothing can be added", "add")
    if isinstance(value, int) and isinstance(number, int):
        return value + number
    try:
        return _EXACT.add(Decimal(value), Decimal(number))
    except ArithmeticError:
        raise _failed("the sum would need more than 4,300 digits", "add") from None


def _list(value: Json | Missing, field: str) -> list[Json]:
    if value is MISSING:
        return []
    if not isinstance(value, list):
        raise _failed("what the key has is no list", field)
    return value


def _with(present: list[Json], more: Sequence[Json]) -> list[Json]:
    held = set(map(identity, present))
    for item in more:
        if (same := identity(item)) not in held:
            held.add(same)
            present.append(item)
    return present
