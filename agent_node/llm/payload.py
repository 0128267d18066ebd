r"""The payload of a chat task, read into a request. Whatever is wrong with it is said by field, and no attempt is repeated for it.

A payload is a JSON object, with the messages themselves:

    {"messages": [{"role": "user", "content": "Hello"}], "model": "gpt-4o-mini", "temperature": 0.2}

or with a template that variables are put into:

    {"template": "Summarise in {count} sentences:\n\n{text}", "variables": {"count": 3, "text": "..."}, "system": "Be brief."}
"""

import difflib
import json
import string
from collections.abc import Mapping
from typing import Final

from agent_node.errors import PayloadError
from agent_node.llm.completion import ChatRequest

_OWN_FIELDS: Final = frozenset({"messages", "template", "variables", "system", "model", "extra"})
_OPTIONS: Final = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "max_completion_tokens",
        "max_tokens",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "temperature",
        "top_p",
        "user",
    }
)
_NOT_EXTRA: Final = frozenset({"model", "messages", "stream", "stream_options", "n"})
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def read_request(payload: bytes, *, default_model: str) -> ChatRequest:
    """The request that a task's payload asks for.

    Args:
        payload: the JSON, in UTF-8.
        default_model: the model of a payload that names none.

    Raises:
        PayloadError: it isn't such a payload; the message names the field.
    """
    document = _json_object(payload)
    for name in document:
        if name not in _OWN_FIELDS | _OPTIONS:
            nearest = difflib.get_close_matches(name, sorted(_OWN_FIELDS | _OPTIONS), n=1)
            advice = f"did you mean {nearest[0]!r}?" if nearest else 'what only your provider knows goes into "extra"'
            raise _wrong(name, f"unknown: {advice}")
    if ("messages" in document) == ("template" in document):
        raise _wrong("messages", 'give either "messages" or "template"')
    model = document.get("model", default_model)
    if not isinstance(model, str) or not model:
        raise _wrong("model", "a text that isn't empty")
    options = {name: value for name, value in document.items() if name in _OPTIONS and value is not None}
    return ChatRequest(
        model=model,
        messages=_given_messages(document) if "messages" in document else _rendered_messages(document),
        options=_extra(document.get("extra", {})) | options,
    )


def render(template: str, variables: Mapping[str, object]) -> str:
    """`template` with each {name} replaced by that variable; {{ and }} stand for braces.

    Only plain names are replaced, so that a template can reach nothing but its variables: no attributes, indexes, conversions or
    formats. What is put in isn't looked at again. A text goes in as it is, anything else as JSON.

    Raises:
        PayloadError: a variable is missing, or the template is none.
    """
    rendered: list[str] = []
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise _wrong("template", f"{error}; write {{{{ and }}}} for braces that stand for themselves") from None
    for literal, name, form, conversion in parts:
        rendered.append(literal)
        if name is None:
            continue
        if not name.isidentifier() or form or conversion:
            shown = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise _wrong("template", f"{{{shown}}} isn't a plain {{name}}; write {{{{ and }}}} for braces that stand for themselves")
        if name not in variables:
            raise _wrong("variables", f"{name!r} is missing, and the template needs it")
        value = variables[name]
        rendered.append(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return "".join(rendered)


def _json_object(payload: bytes) -> dict[str, object]:
    try:
        document = json.loads(payload.decode("utf-8"))
    except UnicodeDecodeError:
        raise _wrong("", "isn't UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise _wrong("", f"isn't valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise _wrong("", "is a JSON object")
    return document


def _given_messages(document: Mapping[str, object]) -> list[Mapping[str, object]]:
    for name in ("variables", "system"):
        if name in document:
            raise _wrong(name, 'belongs to a "template", not to "messages"')
    messages = document["messages"]
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "a list of at least one message")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise _wrong(where, 'an object with "role" and "content"')
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise _wrong(f"{where}.role", f"one of {', '.join(sorted(_ROLES))}")
        if not isinstance(message.get("content"), (str, list)) and "tool_calls" not in message:
            raise _wrong(f"{where}.content", "a text, or a list of content parts")
    return messages


def _rendered_messages(document: Mapping[str, object]) -> list[Mapping[str, object]]:
    template, variables, system = document["template"], document.get("variables", {}), document.get("system", "")
    if not isinstance(template, str) or not template:
        raise _wrong("template", "a text that isn't empty")
    if not isinstance(variables, dict):
        raise _wrong("variables", "an object from names to values")
    if not isinstance(system, str):
        raise _wrong("system", "a text")
    opening: list[Mapping[str, object]] = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": render(template, variables)}]


def _extra(extra: object) -> dict[str, object]:
    if not isinstance(extra, dict):
        raise _wrong("extra", "an object of further fields for the provider")
    for name in extra:
        if name in _NOT_EXTRA:
            raise _wrong(f"extra.{name}", "is set by the agent and can't be given here")
    return dict(extra)


def _wrong(field: str, message: str) -> PayloadError:
    return PayloadError(f"payload field {field!r}: {message}" if field else f"payload: {message}", field=field)
