"""What a chat completion is made of, and how an answer is read from a provider's JSON. Pure: no I/O, no clock.

An answer arrives either as a stream of chunks (`AnswerReader`) or as one JSON object (`read_whole_answer`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent_node.llm.sse import ServerSentEvent

DONE: Final = "[DONE]"
_MAX_COUNT: Final = 10**12  # what is beyond is no count of tokens
_SIGNS_OF_THOUGHT: Final = ("reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """One request. `options` are further fields of the body, as the API names them, such as {"temperature": 0.2}."""

    model: str
    messages: Sequence[Mapping[str, object]]
    options: Mapping[str, object] = field(default_factory=dict)

    def body(self, *, stream_usage: bool) -> dict[str, object]:
        """The request's JSON."""
        streaming: dict[str, object] = {"stream": True}
        if stream_usage:
            streaming["stream_options"] = {"include_usage": True}
        return {**self.options, "model": self.model, "messages": [dict(message) for message in self.messages], **streaming}


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens as the provider counted them."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of a complete answer. `model` is the one that answered; `usage` is None when the provider didn't count."""

    model: str
    finish_reason: str
    usage: TokenUsage | None


class AnswerError(Exception):
    """What the provider sent is no answer: not JSON, not of the known shape."""


class ProviderReportedError(Exception):
    """The provider sent an error where an answer belongs. `code` is its HTTP-like number, or its name, or ""."""

    def __init__(self, message: str, *, code: int | str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event of the stream brought. `alive`: the model is at work, even if `text` is empty (it may be thinking)."""

    text: str
    alive: bool


class AnswerReader:
    """Puts a streamed answer together from its events.

    An answer is complete once a finish reason or [DONE] has come: a stream that ends before was cut off, however cleanly.

    Args:
        model: the model asked for, kept when the stream names none.
    """

    def __init__(self, *, model: str) -> None:
        self._model = model
        self._finish_reason = ""
        self._usage: TokenUsage | None = None
        self._done = False
        self._half_character = ""

    @property
    def done(self) -> bool:
        """Nothing more will come."""
        return self._done

    @property
    def complete(self) -> bool:
        """The text is whole; the token counts may be outstanding."""
        return self._done or bool(self._finish_reason)

    def read(self, event: ServerSentEvent) -> Piece:
        """Takes one event.

        Raises:
            AnswerError: it isn't a chunk of a chat completion.
            ProviderReportedError: it is an error.
        """
        if event.data.strip() == DONE:
            self._done = True
            return Piece("", alive=True)
        chunk = _json_object(event.data)
        _raise_reported_error(chunk)
        self._read_model_and_usage(chunk)
        choices = chunk.get("choices", [] if "usage" in chunk else None)
        if not isinstance(choices, list):
            raise AnswerError("a chunk has no list of choices")
        if not choices:
            return Piece("", alive=False)  # the token counts come in such a chunk
        choice = choices[0]
        if not isinstance(choice, dict):
            raise AnswerError("a choice isn't an object")
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self._finish_reason = reason
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return Piece("", alive=bool(reason))
        text = self._whole_characters(_text(delta.get("content")))
        return Piece(text, alive=bool(text or reason or any(delta.get(name) for name in _SIGNS_OF_THOUGHT)))

    def completion(self) -> Completion:
        """The answer's end.

        Raises:
            AnswerError: the answer isn't complete.
        """
        if not self.complete:
            raise AnswerError("the stream ended without a finish reason: the answer was cut off")
        return Completion(self._model, self._finish_reason, self._usage)

    def _whole_characters(self, text: str) -> str:
        """`text` as UTF-8 can say it. JSON spells an emoji as two halves, and some providers cut between them: a first half waits."""
        text = self._half_character + text
        self._half_character = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        text = text[: len(text) - len(self._half_character)]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not text.isascii() else text

    def _read_model_and_usage(self, chunk: Mapping[str, object]) -> None:
        self._model = _model_of(chunk) or self._model
        self._usage = _usage_of(chunk) or self._usage


def read_whole_answer(text: str, *, model: str) -> tuple[str, Completion]:
    """The answer's text and end, from a provider that doesn't stream.

    Raises:
        AnswerError: it isn't a chat completion.
        ProviderReportedError: it is an error.
    """
    answer = _json_object(text)
    _raise_reported_error(answer)
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise AnswerError("the answer has no choices")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise AnswerError("the answer's choice has no message")
    reason = choices[0].get("finish_reason")
    completion = Completion(_model_of(answer) or model, reason if isinstance(reason, str) else "", _usage_of(answer))
    text = _text(message.get("content"))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), completion


def error_message(body: str) -> str:
    """What an error body says: the message of the JSON shapes that providers use, else the body itself."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return " ".join(body.split())
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return " ".join(body.split())
    error = document.get("error", document)
    if isinstance(error, str):
        return error
    if isinstance(error, dict):
        for name in ("message", "detail", "error_description", "msg"):
            if isinstance(error.get(name), str) and error[name]:
                return str(error[name])
    return " ".join(body.split())


def _raise_reported_error(document: Mapping[str, object]) -> None:
    error = document.get("error")
    if not error:
        return
    code: object = ""
    if isinstance(error, dict):
        code = next((error[name] for name in ("status", "code", "type") if isinstance(error.get(name), (int, str)) and error[name]), "")
    raise ProviderReportedError(error_message(json.dumps(document)), code=code if isinstance(code, (int, str)) else "")


def _json_object(text: str) -> dict[str, object]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AnswerError("it isn't JSON") from error
    if not isinstance(document, dict):
        raise AnswerError("it isn't a JSON object")
    return document


def _model_of(document: Mapping[str, object]) -> str:
    model = document.get("model")
    return model if isinstance(model, str) else ""


def _usage_of(document: Mapping[str, object]) -> TokenUsage | None:
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return None
    return TokenUsage(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_COUNT else 0


def _text(content: object) -> str:
    """Content is a text, or a list of parts of which some hold text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""
