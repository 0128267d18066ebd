"""The local model: its answers come from the prompt, and its API is the one that the LLM agent speaks."""

import aiohttp
import pytest

from agent_node.errors import NonRetryableError
from agent_node.llm.chat import ChatClient
from agent_node.llm.completion import ChatRequest, Completion, Delta
from agent_node.llm.settings import LLMSettings
from examples.local_model.answers import answer, key_terms, review, summary
from examples.local_model.server import MODEL, LocalModel, serving
from examples.local_model.text import paragraphs, sentences, words

TEXT = """
# The flock

A shepherd keeps a flock of sheep on the hill. The flock of sheep eats grass on the hill all day. At night the shepherd leads the
flock home. Clouds were seen over Iceland. The shepherd counts the sheep of the flock twice.
"""


def test_markup_is_no_prose() -> None:
    markdown = """
# Heading

Some **bold**, _bent_, `code/*.py` and a [link](http://x.invalid/a_b) here. See <!-- not
this --> e.g. Fig. 3 for 0.5 points. ![badge](x.svg) <b>Next</b> one!

| a | b |
|---|---|
| 1 | 2 |

```python
never = 1
```

    indented = code

- first item
  goes on
1. second item

> quoted snake_case words

[ref]: http://x.invalid
"""
    assert paragraphs(markdown) == [
        "Some bold, bent, code/*.py and a link here. See e.g. Fig. 3 for 0.5 points. Next one!",
        "first item goes on",
        "second item",
        "quoted snake_case words",
    ]
    assert sentences(markdown)[:3] == ["Some bold, bent, code/*.py and a link here.", "See e.g. Fig. 3 for 0.5 points.", "Next one!"]


def test_words_of_scripts_without_spaces() -> None:
    assert words("Don't split snake_case, v0.5 漢字") == ["Don't", "split", "snake_case", "v0.5", "漢", "字"]


def test_a_summary_is_of_sentences_of_the_text_in_its_order() -> None:
    found = summary(TEXT, 2)
    everything = sentences(TEXT)
    assert len(found) == 2
    assert [everything.index(sentence) for sentence in found] == sorted(everything.index(sentence) for sentence in found)
    assert "Clouds were seen over Iceland." not in found


def test_key_terms_are_what_the_text_repeats() -> None:
    assert key_terms(TEXT, 2) == ["flock", "sheep"]


def test_a_review_finds_the_claim_that_the_source_does_not_hold() -> None:
    found = review("The shepherd counts the sheep twice. Wolves ate seven lambs yesterday.", TEXT)
    assert found.splitlines()[0] == "1 of 2 claims are supported by the source."
    assert "Wolves ate seven lambs yesterday." in found
    assert "counts" not in found


@pytest.mark.parametrize(
    "instructions, expected",
    [
        ("Summarise in two sentences.", 2),
        ("Summarize the text in 1 sentence", 1),
        ("Do as you like with 3 short sentences", 3),
    ],
)
def test_the_instructions_say_how_many(instructions: str, expected: int) -> None:
    said = answer([{"role": "system", "content": instructions}, {"role": "user", "content": TEXT}])
    assert len(sentences(said)) == expected
    assert said == answer([{"role": "user", "content": f"{instructions}\n\n{TEXT}"}])


def test_an_empty_prompt_is_answered_with_nothing() -> None:
    assert answer([{"role": "user", "content": ""}]) == ""


def request(**options: object) -> ChatRequest:
    messages = [{"role": "system", "content": "Summarise in 2 sentences."}, {"role": "user", "content": TEXT}]
    return ChatRequest(model=MODEL, messages=messages, options=options)


async def test_the_llm_agent_streams_from_it() -> None:
    async with serving(LocalModel()) as base_url, ChatClient(settings=LLMSettings(base_url=base_url, model=MODEL)) as client:
        parts = [part async for part in client.stream(request())]
    text = "".join(part.text for part in parts if isinstance(part, Delta))
    assert text == " ".join(summary(TEXT, 2))
    assert isinstance(parts[-1], Completion)
    assert (parts[-1].model, parts[-1].finish_reason) == (MODEL, "stop")
    assert parts[-1].usage is not None
    assert (parts[-1].usage.input_tokens, parts[-1].usage.output_tokens) == (len(words(TEXT)) + 4, len(text.split()))


async def test_max_tokens_cuts_an_answer_and_says_so() -> None:
    async with serving(LocalModel()) as base_url, ChatClient(settings=LLMSettings(base_url=base_url, model=MODEL)) as client:
        parts = [part async for part in client.stream(request(max_tokens=3))]
    assert isinstance(parts[-1], Completion)
    assert parts[-1].finish_reason == "length"
    assert len("".join(part.text for part in parts if isinstance(part, Delta)).split()) == 3


async def test_a_plain_answer_is_the_same_text() -> None:
    async with serving(LocalModel()) as base_url, aiohttp.ClientSession() as session:
        body = request().body(stream_usage=False) | {"stream": False}
        async with session.post(f"{base_url}/chat/completions", json=body) as response:
            document = await response.json()
        async with session.get(f"{base_url}/models") as response:
            models = await response.json()
    assert document["choices"][0]["message"]["content"] == " ".join(summary(TEXT, 2))
    assert [model["id"] for model in models["data"]] == [MODEL]


@pytest.mark.parametrize("wrong", [{"model": "gpt-9"}, {"messages": []}, {"max_tokens": -1}])
async def test_a_wrong_request_is_refused_with_a_reason(wrong: dict[str, object]) -> None:
    asked = ChatRequest(
        model=str(wrong.get("model", MODEL)), messages=wrong.get("messages", [{"role": "user", "content": "x"}]), options=wrong
    )
    async with serving(LocalModel()) as base_url, ChatClient(settings=LLMSettings(base_url=base_url, model=MODEL)) as client:
        with pytest.raises(NonRetryableError, match=next(iter(wrong))):
            [part async for part in client.stream(asked)]
