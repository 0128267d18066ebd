"""What a handler's function looks like: async or not, and whether it takes its payload as a type of its own."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from agent_node.errors import PayloadError
from agent_node.typed import check_type, from_json, is_json, refuse_encoded


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call returns an awaitable."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def payload_type(function: Callable[..., Any]) -> Any:
    """The type of a handler's second parameter; `inspect.Parameter.empty` when it takes the context alone.

    Raises:
        ValueError: its parameters aren't a handler's, or its type can't be found out or read from JSON.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # something built in, without a signature
        return inspect.Parameter.empty
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [each for each in signature.parameters.values() if each.kind in kinds and each.default is inspect.Parameter.empty]
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if len(needed) <= 1:
        return inspect.Parameter.empty
    if len(needed) > 2:
        raise ValueError(f"a handler takes a Context, and a payload if you like; {name} takes {len(needed)} arguments")
    if needed[1].annotation is inspect.Parameter.empty:
        raise ValueError(f"annotate the payload of {name}, such as {needed[1].name}: Document")
    try:
        kind = get_type_hints(_annotated(function), include_extras=True)[needed[1].name]
        if kind not in (bytes, str):
            check_type(kind)
    except NameError as error:
        raise ValueError(f"the type of {name}'s payload can't be found: {error}; define it at the top of its module") from None
    except TypeError as error:
        raise ValueError(f"no payload can be read into {name}'s {needed[1].name}: {error}") from None
    return kind


def with_payload(function: Callable[..., Any]) -> Callable[[Any], Any]:
    """A handler as a function of the context alone: one that takes a payload gets it read from the context.

    Raises:
        ValueError: as `payload_type`.
    """
    kind = payload_type(function)
    if kind is inspect.Parameter.empty:
        return function
    if is_async(function):

        async def typed_async(context: Any) -> Any:
            return await function(context, read(context.payload, context.content_type, kind))

        return functools.wraps(function)(typed_async)

    def typed(context: Any) -> Any:
        return function(context, read(context.payload, context.content_type, kind))

    return functools.wraps(function)(typed)


def read(data: bytes, content_type: str, kind: Any) -> Any:
    """A payload as a typed handler gets it: `bytes` as they are, `str` as text unless it is JSON, anything else from JSON.

    Raises:
        PayloadError: it doesn't fit.
    """
    refuse_encoded(content_type)
    if kind is bytes:
        return data
    if kind is str and not is_json(content_type):
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise PayloadError(f"the payload is no UTF-8 text: {error.reason} at byte {error.start}") from None
    return from_json(data, content_type, kind)


def _annotated(function: Callable[..., Any]) -> Callable[..., Any]:
    """What holds the annotations: a partial's function, or an object's __call__."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isfunction(function) or inspect.ismethod(function):
        return function
    return type(function).__call__
