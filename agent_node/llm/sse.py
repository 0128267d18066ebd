"""Server-sent events, parsed as they arrive. Pure: bytes in, events out, no I/O.

The format is the HTML standard's, section 9.2.6 "Interpreting an event stream", but for two leniencies that real providers need: a last
event that the stream's end cuts off before its blank line is handed out by `finish`, and ids and reconnection times are skipped.
"""

from dataclasses import dataclass
from typing import Final

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class EventTooLongError(ValueError):
    """An event, or a line, is longer than the parser holds."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event: its `data` lines joined by line feeds, and its type."""

    data: str
    event: str = "message"


class EventStreamParser:
    """Cuts a byte stream into events, wherever the network cut it: within lines, CRLF pairs and UTF-8 sequences.

    Args:
        max_event_bytes: the most that is held of one event.
    """

    def __init__(self, *, max_event_bytes: int = 1024 * 1024) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()  # the line that has no end yet
        self._data: list[str] = []
        self._data_bytes = 0
        self._event = ""
        self._after_carriage_return = False
        self._at_start = True

    def feed(self, received: bytes) -> list[ServerSentEvent]:
        """The events that `received` completes.

        Raises:
            EventTooLongError: an event has grown past the bound; the parser is of no more use.
        """
        events: list[ServerSentEvent] = []
        for line in self._complete_lines(received):
            event = self._take_line(line)
            if event is not None:
                events.append(event)
        if len(self._line) + self._data_bytes > self._max_event_bytes:
            raise EventTooLongError(f"an event is longer than {self._max_event_bytes} bytes")
        return events

    def finish(self) -> list[ServerSentEvent]:
        """The event that the stream's end left without its blank line, if there is one."""
        if self._line:
            self._take_line(bytes(self._line))
            self._line.clear()
        event = self._take_line(b"")
        return [event] if event is not None else []

    def _complete_lines(self, received: bytes) -> list[bytes]:
        if self._after_carriage_return and received:
            received = received.removeprefix(b"\n")  # the second half of a CRLF
            self._after_carriage_return = False
        self._after_carriage_return |= received.endswith(b"\r")
        lines: list[bytes] = []
        for piece in received.splitlines(keepends=True):
            self._line += piece.rstrip(b"\r\n")
            if piece.endswith((b"\r", b"\n")):
                lines.append(bytes(self._line))
                self._line.clear()
        return lines

    def _take_line(self, line: bytes) -> ServerSentEvent | None:
        if self._at_start:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._at_start = False
        if not line:
            return self._end_event()
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data_bytes += len(value)
            self._data.append(_field_text(value))
        elif name == b"event":
            self._event = _field_text(value)
        return None  # a comment (an empty name), or a field that is nothing to us

    def _end_event(self) -> ServerSentEvent | None:
        event = ServerSentEvent("\n".join(self._data), self._event or "message") if self._data else None
        self._data.clear()
        self._data_bytes = 0
        self._event = ""
        return event


def _field_text(value: bytes) -> str:
    return value.removeprefix(b" ").decode("utf-8", errors="replace")
