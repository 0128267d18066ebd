"""What every name in a request must be."""

import re

from coordinator.errors import InvalidRequest

MAX_ID_CHARS = 128
LABEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")  # of a task: what a filter can name without quotes


def check_name(text: str, field: str) -> str:
    """An id, a type or a name: 1 to 128 printable characters."""
    if 0 < len(text) <= MAX_ID_CHARS and text.isprintable():
        return text
    if not text:
        raise InvalidRequest(f"{field} is empty: give it 1 to {MAX_ID_CHARS} characters", field=field)
    if len(text) > MAX_ID_CHARS:
        raise InvalidRequest(f"{field} has {len(text)} characters: at most {MAX_ID_CHARS} are allowed", field=field)
    raise InvalidRequest(f"{field} has characters that can't be printed: leave them out", field=field)
