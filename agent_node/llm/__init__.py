"""The built-in LLM agent: chat completions from any OpenAI-compatible API, as tasks. Needs the `[llm]` extra (aiohttp)."""
