"""The handler of chat tasks: payload in, request out, pieces and token counts reported as they come, result back."""

from contextlib import aclosing
from typing import Protocol

from agent_node.errors import RetryableError
from agent_node.llm.chat import ChatClient
from agent_node.llm.completion import Completion, Delta
from agent_node.llm.payload import read_request


class ChatContext(Protocol):
    """What the handler needs of a task's context."""

    @property
    def payload(self) -> bytes:
        """The task's input."""

    def emit(self, chunk: bytes) -> None:
        """Hands out a piece of partial output."""

    def progress(self, current: float, total: float, message: str = "") -> None:
        """Says how far the work is; a total of 0 is not known."""

    def report_usage(self, *, model: str, input_tokens: int, output_tokens: int, requests: int = 1) -> None:
        """Records what was consumed."""


class ChatHandler:
    """Runs chat tasks against one provider.

    Args:
        client: the provider's client.
        default_model: the model of tasks that name none.
    """

    def __init__(self, *, client: ChatClient, default_model: str) -> None:
        self._client = client
        self._default_model = default_model

    async def chat(self, context: ChatContext) -> dict[str, object]:
        """Answers one task.

        The answer's text goes out in pieces as it comes, and whole in the result:
        {"content", "model", "finish_reason", "usage": {"input_tokens", "output_tokens"} or null}.

        An attempt that fails after the provider began to answer is recorded as one request of unknown size: it isn't free.

        Raises:
            NonRetryableError: the payload is wrong, or the provider refused the request.
            RetryableError: the provider can't be used now.
        """
        request = read_request(context.payload, default_model=self._default_model)
        pieces: list[str] = []
        emitted_bytes = 0
        end: Completion | None = None
        try:
            async with aclosing(self._client.stream(request)) as answer:
                async for part in answer:
                    match part:
                        case Delta(text):
                            pieces.append(text)
                            emitted_bytes += len(chunk := text.encode())
                            context.emit(chunk)
                            context.progress(emitted_bytes, 0, "bytes of the answer")
                        case Completion():
                            end = part
        finally:
            if end is not None or pieces:
                usage = end.usage if end is not None else None
                context.report_usage(
                    model=end.model if end is not None else request.model,
                    input_tokens=usage.input_tokens if usage is not None else 0,
                    output_tokens=usage.output_tokens if usage is not None else 0,
                    requests=1,
                )
        if end is None:
            raise RetryableError("the answer has no end", kind="PROVIDER_UNAVAILABLE")
        return {
            "content": "".join(pieces),
            "model": end.model,
            "finish_reason": end.finish_reason,
            "usage": None if end.usage is None else {"input_tokens": end.usage.input_tokens, "output_tokens": end.usage.output_tokens},
        }
