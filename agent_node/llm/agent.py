"""Connects the built-in LLM agent: settings, client, handler, and the SDK's agent that carries them."""

from collections.abc import Callable
from typing import Protocol

from agent_node.llm.chat import ChatClient
from agent_node.llm.handler import ChatHandler
from agent_node.llm.settings import LLMSettings


class RegistersHandlers(Protocol):
    """What the LLM agent needs of the SDK's agent."""

    def handler(self, task_type: str) -> Callable[[Callable[..., object]], object]:
        """A decorator that registers the handler of a task type."""


def register_chat(agent: RegistersHandlers, settings: LLMSettings) -> ChatHandler:
    """Registers the chat handler on `agent` for each of the settings' task types, and answers it."""
    chat = ChatHandler(client=ChatClient(settings=settings), default_model=settings.model)
    for task_type in settings.task_types:
        agent.handler(task_type)(chat.chat)
    return chat
