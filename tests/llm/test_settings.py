"""Settings from flags, the environment and a file; and the key, which none of them shows."""

import copy
import pickle
from pathlib import Path

import pytest

from agent_node.llm.secret import Secret
from agent_node.llm.settings import LLMSettings, SettingsError, load_settings

KEY = "sk-abcdef/123456"
ENVIRONMENT = {"MUSTER_LLM_BASE_URL": "https://api.holysheep.ai/v1", "MUSTER_LLM_API_KEY": KEY, "MUSTER_LLM_MODEL": "small"}


def written(folder: Path, text: str) -> Path:
    file = folder / "llm.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_environment_alone_is_enough() -> None:
    settings = load_settings(environment=ENVIRONMENT)
    assert settings.endpoint == "https://api.holysheep.ai/v1/chat/completions"
    assert settings.api_key.reveal() == KEY
    assert settings.task_types == ("llm.chat",)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'base_url = "http://file/v1"\nmodel = "file"\ncapacity = 3\ntask_types = ["a", "b"]\n')
    assert load_settings(file, environment={}).model == "file"
    assert load_settings(file, environment={"MUSTER_LLM_MODEL": ""}).model == "file"
    assert load_settings(file, environment={"MUSTER_LLM_MODEL": "environment"}).model == "environment"
    settings = load_settings(file, environment={"MUSTER_LLM_MODEL": "environment"}, flags={"model": "flag", "capacity": None})
    assert (settings.model, settings.base_url, settings.capacity, settings.task_types) == ("flag", "http://file/v1", 3, ("a", "b"))


@pytest.mark.parametrize(
    "text, says_what",
    [
        ('base_ulr = "http://x"', "did you mean 'base_url'"),
        ("[llm]\ncapacity = 1", "setting 'llm' is unknown"),
        ("zzz = 1", "known are api_key"),
        ("[base_url", "isn't valid TOML"),
        ("capacity = 0", "capacity is a whole number above 0"),
        ("capacity = 1.5", "capacity is a whole number"),
        ("total_timeout_s = true", "total_timeout_s is a number"),
        ("total_timeout_s = inf", "total_timeout_s is a number"),
        ("task_types = []", "task_types is a list"),
        ("task_types = [1]", "task_types is a list"),
        ('request_stream_usage = "no"', "request_stream_usage is true or false"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_says_what_to_do(tmp_path: Path, text: str, says_what: str) -> None:
    with pytest.raises(SettingsError, match=says_what) as caught:
        load_settings(written(tmp_path, text), environment=ENVIRONMENT)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="api_key is a text"):
        load_settings(written(tmp_path, "api_key = 5"), environment={})


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(tmp_path / "missing.toml", environment=ENVIRONMENT)


@pytest.mark.parametrize("missing", ["MUSTER_LLM_BASE_URL", "MUSTER_LLM_MODEL"])
def test_what_is_missing_is_named_with_where_to_give_it(missing: str) -> None:
    with pytest.raises(SettingsError, match=missing):
        load_settings(environment={name: value for name, value in ENVIRONMENT.items() if name != missing})


@pytest.mark.parametrize(
    "given, base_url",
    [
        ("https://api.holysheep.ai/v1/", "https://api.holysheep.ai/v1"),
        ("https://api.holysheep.ai/v1/chat/completions", "https://api.holysheep.ai/v1"),
        (" http://[::1]:8000/v1 ", "http://[::1]:8000/v1"),
        ("http://localhost:11434", "http://localhost:11434"),
    ],
)
def test_base_urls_as_people_paste_them(given: str, base_url: str) -> None:
    assert LLMSettings(base_url=given, model="m").base_url == base_url


@pytest.mark.parametrize(
    "given",
    [
        "api.holysheep.ai/v1",
        "ftp://x/v1",
        "https://",
        f"https://u:{KEY}@x/v1",
        f"https://u:{KEY[:6]}@x/v1",
        f"https://{KEY[:6]}@x/v1",
        f"https://x/v1?key={KEY}",
        f"https://x:{KEY}/v1",
        "http://[x",
    ],
)
def test_a_base_url_that_is_none_or_holds_a_secret_is_refused_unseen(given: str) -> None:
    import traceback

    with pytest.raises(SettingsError) as caught:
        LLMSettings(base_url=given, model="m")
    assert KEY[:6] not in "".join(traceback.format_exception(caught.value))


def test_the_key_shows_in_no_form_of_the_settings() -> None:
    settings = load_settings(environment=ENVIRONMENT)
    shown = f"{settings} {settings!r} {settings.api_key} {settings.api_key!r} {vars(settings)}"
    assert KEY not in shown
    assert copy.copy(settings).api_key.reveal() == KEY
    with pytest.raises(TypeError):
        pickle.dumps(settings)


def test_white_space_around_a_key_is_no_part_of_it() -> None:
    assert load_settings(environment=ENVIRONMENT | {"MUSTER_LLM_API_KEY": f"{KEY}\n"}).api_key == Secret(KEY)


def test_a_key_that_no_header_can_hold_is_refused_unseen() -> None:
    import traceback

    with pytest.raises(SettingsError) as caught:
        load_settings(environment=ENVIRONMENT | {"MUSTER_LLM_API_KEY": f"{KEY}\n{KEY}"})
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "text, clean",
    [
        (f"a {KEY} b {KEY}", "a [secret] b [secret]"),
        ("sk-abcdef\\/123456!", "[secret]!"),
        ("key=sk-abcdef%2F123456", "key=[secret]"),
        (f"cut off {KEY[:10]}", "cut off [secret]"),
        ("a risk", "a risk"),
    ],
)
def test_a_secret_takes_itself_out_of_a_text(text: str, clean: str) -> None:
    assert Secret(KEY).remove_from(text) == clean


def test_no_key_takes_nothing_out() -> None:
    assert Secret("").remove_from("a text") == "a text"
