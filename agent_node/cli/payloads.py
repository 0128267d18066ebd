"""Payloads as people and programs like them: bytes and a media type on one side, JSON values or text on the other."""

import base64
import json
from typing import TypeAlias

from agent_node.typed import is_json

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain"
BINARY_TYPE = "application/octet-stream"


def guess_content_type(payload: bytes) -> str:
    """JSON where it parses as JSON, else text where it is UTF-8, else plain bytes."""
    if not payload:
        return BINARY_TYPE
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return BINARY_TYPE
    try:
        json.loads(text)
    except ValueError:
        return TEXT_TYPE
    return JSON_TYPE


def is_text(content_type: str) -> bool:
    """Whether a media type is text."""
    return content_type.strip().lower().startswith("text/")


def payload_fields(payload: bytes, content_type: str) -> "dict[str, Json]":
    """A payload for a JSON object: `payload` holds the JSON value or the text; what is neither goes into `payload_base64`."""
    fields: dict[str, Json] = {"content_type": content_type or BINARY_TYPE}
    if is_json(content_type) or is_text(content_type):
        try:
            text = payload.decode()
            fields["payload"] = json.loads(text) if is_json(content_type) else text
        except ValueError:  # not what its type says
            pass
        else:
            return fields
    fields["payload_base64"] = base64.b64encode(payload).decode("ascii")
    return fields


def payload_text(payload: bytes, content_type: str) -> str:
    """A payload for a person: indented JSON, text, or how many bytes it is."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return f"{len(payload)} bytes of {content_type or BINARY_TYPE}"
    if is_json(content_type):
        try:
            return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        except ValueError:
            return text
    return text
