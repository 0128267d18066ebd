"""The LLM agent's settings: read from flags, the environment and a TOML file, checked once, frozen afterwards.

A flag wins over the environment, the environment over the file, the file over the default. The key has no flag: it would show in
the machine's list of processes.

    base_url = "https://api.holysheep.ai/v1"
    model = "gpt-4o-mini"
    capacity = 20

    MUSTER_LLM_API_KEY=... muster-agent llm --config llm.toml
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agent_node.llm.secret import Secret

ENVIRONMENT: Final = {"MUSTER_LLM_BASE_URL": "base_url", "MUSTER_LLM_API_KEY": "api_key", "MUSTER_LLM_MODEL": "model"}
_ENDPOINT: Final = "/chat/completions"


class SettingsError(ValueError):
    """A setting is unknown, missing or wrong. The message is a sentence that says where and what to do, and shows no key."""


@dataclass(frozen=True, kw_only=True)
class LLMSettings:
    """What the LLM agent needs to know of its provider, and of itself.

    Raises:
        SettingsError: a value is out of its range or of another type.
    """

    base_url: str
    """Where the API is, up to and including its version, such as "https://api.holysheep.ai/v1"."""
    model: str
    """The model of requests that name none."""
    api_key: Secret = field(default_factory=lambda: Secret(""))
    """Sent as a bearer token; empty for a server that asks for none."""
    task_types: tuple[str, ...] = ("llm.chat",)
    """The task types the agent takes, all of them handled alike."""
    capacity: int = 10
    """Requests at a time."""
    connect_timeout_s: float = 10.0
    """To find and reach the server, TLS included."""
    first_token_timeout_s: float = 60.0
    """From the start of a request to the first piece of its answer, the wait in the provider's queue included."""
    between_tokens_timeout_s: float = 30.0
    """From one piece of an answer to the next. Keep-alive comments are no pieces: a provider that only sends those is stalled."""
    total_timeout_s: float = 600.0
    """For a whole request."""
    max_answer_bytes: int = 768 * 1024
    """A longer answer fails its task: results are bounded (1 MiB by default), and a model that babbles for ever costs money."""
    request_stream_usage: bool = True
    """Ask for token counts in streams. Turn off for a provider that refuses `stream_options`."""

    def __post_init__(self) -> None:
        for name in ("base_url", "model"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise SettingsError(f"{name} is missing: give it by flag, by {_variable_of(name)}, or in the file")
        object.__setattr__(self, "base_url", _checked_base_url(self.base_url))
        for name in ("connect_timeout_s", "first_token_timeout_s", "between_tokens_timeout_s", "total_timeout_s"):
            _require_positive(name, getattr(self, name), whole=False)
        for name in ("capacity", "max_answer_bytes"):
            _require_positive(name, getattr(self, name), whole=True)
        if not isinstance(self.request_stream_usage, bool):
            raise SettingsError("request_stream_usage is true or false")
        if not isinstance(self.task_types, tuple) or not self.task_types or not all(isinstance(t, str) and t for t in self.task_types):
            raise SettingsError('task_types is a list of at least one task type, such as ["llm.chat"]')

    @property
    def endpoint(self) -> str:
        """The URL that chat requests go to."""
        return self.base_url + _ENDPOINT


def load_settings(
    file: Path | None = None,
    *,
    environment: Mapping[str, str],
    flags: Mapping[str, object] | None = None,
) -> LLMSettings:
    """Settings from a TOML file, the environment and flags.

    Args:
        file: the TOML file, if there is one.
        environment: usually os.environ; an empty variable counts as not set.
        flags: settings by field name, as a command line gave them; None values count as not given.

    Raises:
        SettingsError: the file can't be read or isn't TOML, a name in it is unknown, or a value is wrong.
    """
    values: dict[str, object] = _read_file(file) if file is not None else {}
    values |= {name: environment[variable] for variable, name in ENVIRONMENT.items() if environment.get(variable)}
    values |= {name: value for name, value in (flags or {}).items() if value is not None}
    values.setdefault("base_url", "")
    values.setdefault("model", "")
    if isinstance(values.get("task_types"), list):
        values["task_types"] = tuple(values["task_types"])  # type: ignore[arg-type]  # its items are checked by LLMSettings
    values["api_key"] = _as_secret(values.get("api_key", ""))
    return LLMSettings(**values)  # type: ignore[arg-type]  # every value is checked by LLMSettings


def _read_file(file: Path) -> dict[str, object]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: can't be read: {error.strerror or type(error).__name__}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: isn't UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: isn't valid TOML: {error}") from error
    _require_known(document, {each.name for each in fields(LLMSettings)}, where=f"{file}: setting")
    return document


def _require_known(found: Mapping[str, object], known: set[str], *, where: str) -> None:
    for name in found:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            advice = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(sorted(known))}"
            raise SettingsError(f"{where} {name!r} is unknown: {advice}")


def _as_secret(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise SettingsError("api_key is a text")
    try:
        return Secret.from_text(value)
    except ValueError as error:
        raise SettingsError(f"api_key: {error}") from error


def _variable_of(name: str) -> str:
    return next(variable for variable, field_name in ENVIRONMENT.items() if field_name == name)


def _require_positive(name: str, value: object, *, whole: bool) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < float("inf"):
        raise SettingsError(f"{name} is a {'whole ' if whole else ''}number above 0, not {value!r}")


def _checked_base_url(given: str) -> str:
    """`given` without what people paste along: the endpoint's own path and trailing slashes.

    Whatever may hold a secret (user, password, query) is refused, and never repeated in the message, since URLs are logged.
    """
    try:
        parts = urlsplit(given.strip())
        host = parts.hostname
        _ = parts.port  # raises for one that isn't a number
    except ValueError:
        raise SettingsError("base_url isn't a URL: write it like https://api.holysheep.ai/v1") from None  # it repeats what was given
    if parts.scheme not in ("http", "https") or not host:
        raise SettingsError("base_url begins with https:// or http:// and a host, such as https://api.holysheep.ai/v1")
    if parts.username is not None or parts.password is not None:
        raise SettingsError("base_url holds a user or password: give the key by MUSTER_LLM_API_KEY instead")
    if parts.query or parts.fragment:
        raise SettingsError("base_url ends with the API's version, such as /v1: leave out what follows ? or #")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix(_ENDPOINT).rstrip('/')}"
