"""Connects the built-in LLM agent: settings, client, handler, and the SDK's agent that carries them."""

import os
from pathlib import Path

from agent_node.agent import Agent
from agent_node.llm.chat import ChatClient
from agent_node.llm.handler import ChatHandler
from agent_node.llm.settings import LLMSettings, load_settings
from agent_node.payloads import Payloads


class LLMAgent(Agent):
    """An agent that answers chat tasks with one provider's models.

    Args:
        settings: the provider, and what the agent takes. Name, address and namespace are the SDK's defaults; `override` changes them.
        payloads: what payloads went through before they travelled, and results go through, as with any Agent; None is nothing. Pieces of
            an answer that are shown while it grows don't go through it.
    """

    def __init__(self, settings: LLMSettings, *, payloads: Payloads | None = None) -> None:
        super().__init__(capacity=settings.capacity, labels={"llm.model": settings.model}, payloads=payloads)
        self._chat_client = ChatClient(settings=settings)
        chat_handler = ChatHandler(client=self._chat_client, default_model=settings.model)
        for task_type in settings.task_types:
            self.handler(task_type)(chat_handler.chat)

    async def serve(self) -> None:
        """As Agent.serve; closes the connections to the provider at its end."""
        async with self._chat_client:
            await super().serve()


def build_agent(config: Path | None = None, *, payloads: Payloads | None = None) -> LLMAgent:
    """The agent that a TOML file and the environment describe; see `load_settings`. `payloads` are as in LLMAgent.

    Raises:
        SettingsError: a setting is missing, unknown or wrong; the message is one sentence for whoever wrote it.
    """
    return LLMAgent(load_settings(config, environment=os.environ), payloads=payloads)
