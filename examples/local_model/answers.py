"""What the local model can do, and how it finds out what a prompt asks for. Pure: messages in, text out.

It reads the instructions for a task and a number, does that to the material, and says nothing that it didn't compute:

    "Summarise in 4 sentences."             the most central sentences, by LexRank (Erkan and Radev, 2004)
    "Name the 8 key terms."                 the words and pairs of words that the material repeats most, weighted by length
    "Review: which claims does the source   each sentence under "Claims:" is looked for in the sentences under "Source:", by shared words
     not support?"

Anything else is answered with a summary. The instructions are the system messages; without one, the first paragraph of the prompt.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import pairwise
from typing import Final

from sumy.models.dom import ObjectDocumentModel, Paragraph, Sentence
from sumy.summarizers.lex_rank import LexRankSummarizer

from examples.local_model.text import Tokenizer, sentences, words

_MOST_SENTENCES: Final = 150  # LexRank compares each with each
_SHORTEST_SENTENCE: Final = 5  # words; what is shorter says nothing by itself
_LONGEST_SENTENCE: Final = 70
_SUPPORT: Final = 0.6  # the share of a claim's words that one sentence of the source, or two neighbours, must hold
_NUMBERS: Final = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_STOP_WORDS_TEXT: Final = """
    a about above after again against all also although always am an and another any are as at be because been before being below between
    both but by can can't cannot could did do does doesn't doing don't down during each either else ever every few for from further get gets
    given had has have having he her here hers him his how however i if in instead into is isn't it it's its itself just least less let like
    made make makes many may me might more most much must my need needs neither never no nor not now of off often on once one only onto or
    other others our out over own per put rather s same say says see set she should since so some still such take takes than that that's the
    their theirs them then there these they thing things this those three through to too two under until up upon us use used uses using very
    was way we well were what when where whether which while who whom whose why will with within without would yet you your
"""
_STOP_WORDS: Final = frozenset(_STOP_WORDS_TEXT.split())


class Task(Enum):
    """What a prompt asks for."""

    SUMMARISE = "summarise"
    KEY_TERMS = "key terms"
    REVIEW = "review"


def answer(messages: Sequence[Mapping[str, object]]) -> str:
    """The model's answer to a conversation. Deterministic."""
    instructions, material = _instructions_and_material(messages)
    match task_of(instructions):
        case Task.REVIEW:
            claims, source = _claims_and_source(material)
            return review(claims, source)
        case Task.KEY_TERMS:
            return ", ".join(key_terms(material, _number_before(r"(?:key )?terms?", instructions, otherwise=8)))
        case Task.SUMMARISE:
            return " ".join(summary(material, _number_before("sentences?", instructions, otherwise=3)))


def task_of(instructions: str) -> Task:
    """Which task the instructions name; a summary when they name none."""
    lower = instructions.lower()
    if "review" in lower or "claim" in lower:
        return Task.REVIEW
    if "key term" in lower or "keyword" in lower:
        return Task.KEY_TERMS
    return Task.SUMMARISE


def summary(material: str, count: int) -> list[str]:
    """The `count` most central sentences of the material, in its order."""
    found = list(dict.fromkeys(s for s in sentences(material) if _SHORTEST_SENTENCE <= len(words(s)) <= _LONGEST_SENTENCE))
    if len(found) <= count:
        return found or sentences(material)[:count]
    tokenizer = Tokenizer()
    document = ObjectDocumentModel([Paragraph([Sentence(s, tokenizer) for s in _spread(found, _MOST_SENTENCES)])])
    summarizer = LexRankSummarizer()
    summarizer.stop_words = _STOP_WORDS
    return [str(sentence) for sentence in summarizer(document, count)]


def key_terms(material: str, count: int) -> list[str]:
    """The `count` terms of one or two words that the material repeats most. A pair that is repeated counts double: it says more."""
    scores: Counter[str] = Counter()
    spellings: dict[str, Counter[str]] = {}
    for sentence in sentences(material):
        tokens = words(sentence)
        singles = [(token,) for token in tokens if _tells(token)]
        pairs = [pair for pair in pairwise(tokens) if _tells(pair[0]) and _tells(pair[1]) and f"{pair[0]} {pair[1]}" in sentence]
        for term in (*singles, *pairs):
            text = " ".join(term)
            scores[text.lower()] += len(term)
            spellings.setdefault(text.lower(), Counter())[text] += 1
    chosen: list[str] = []
    for candidate in [term for term, spelling in spellings.items() if " " in term and spelling.total() == 1]:
        del scores[candidate]  # two words that met once by chance
    for candidate, _ in sorted(scores.items(), key=lambda item: (-item[1], item[0])):
        if not any(set(candidate.split()) & set(other.split()) for other in chosen):
            chosen.append(candidate)
        if len(chosen) == count:
            break
    return [spellings[term].most_common(1)[0][0] for term in chosen]


def review(claims: str, source: str) -> str:
    """Which sentences of `claims` the source doesn't support: their words are in no sentence of it, nor in two neighbours."""
    stated = sentences(claims)
    known = [_content(sentence) for sentence in sentences(source)]
    windows = known + [first | second for first, second in pairwise(known)]
    unsupported: list[str] = []
    for claim in stated:
        said = _content(claim)
        share = max((len(said & window) / len(said) for window in windows), default=0.0) if said else 1.0
        if share < _SUPPORT:
            unsupported.append(f"- {claim} ({share:.0%} of its words)")
    head = f"{len(stated) - len(unsupported)} of {len(stated)} claims are supported by the source."
    return "\n".join([head, *unsupported])


def _instructions_and_material(messages: Sequence[Mapping[str, object]]) -> tuple[str, str]:
    system = "\n".join(_contents(messages, roles={"system", "developer"}))
    material = "\n\n".join(_contents(messages, roles={"user"})[-1:])
    if system:
        return system, material
    opening, _, rest = material.partition("\n\n")
    return (opening, rest) if rest.strip() else (material, material)


def _contents(messages: Iterable[Mapping[str, object]], *, roles: set[str]) -> list[str]:
    contents: list[str] = []
    for message in messages:
        content = message.get("content")
        if message.get("role") in roles and isinstance(content, str):
            contents.append(content)
        elif message.get("role") in roles and isinstance(content, list):
            contents.append("".join(str(part.get("text", "")) for part in content if isinstance(part, dict)))
    return contents


def _claims_and_source(material: str) -> tuple[str, str]:
    before, _, source = material.partition("\nSource:")
    return before.partition("Claims:")[2] or before, source


def _number_before(noun: str, instructions: str, *, otherwise: int) -> int:
    found = re.search(rf"\b(\d{{1,3}}|{'|'.join(_NUMBERS)})\s+(?:\w+\s+)?{noun}\b", instructions.lower())
    if found is None:
        return otherwise
    return max(1, int(found[1]) if found[1].isdigit() else _NUMBERS[found[1]])


def _spread(items: list[str], most: int) -> list[str]:
    """At most `most` of the items, evenly taken."""
    return items if len(items) <= most else [items[index * len(items) // most] for index in range(most)]


def _tells(word: str) -> bool:
    return word.lower() not in _STOP_WORDS and not word.isnumeric() and (len(word) > 2 or not word.isascii())


def _content(sentence: str) -> frozenset[str]:
    return frozenset(word.lower() for word in words(sentence) if _tells(word))
