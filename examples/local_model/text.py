"""Markdown to sentences to words, with no model and no download. Pure.

What isn't prose (tables, code, headings, link targets, HTML) goes before sentences are cut: it would only be noise to a summary.
"""

import re
from typing import Final

_FENCE: Final = re.compile(r"^\s{0,3}(```|~~~)")
_TABLE_ROW: Final = re.compile(r"^\s*\|.*\|?\s*$|^\s*:?-{3,}:?\s*(\|\s*:?-{3,}:?\s*)+$")
_HEADING: Final = re.compile(r"^\s{0,3}#{1,6}\s|^\s{0,3}(=+|-{2,}|\*{3,}|_{3,})\s*$")
_LIST_ITEM: Final = re.compile(r"^\s*([-*+]|\d{1,3}[.)])\s+")
_LINK_TARGET: Final = re.compile(r"^\s{0,3}\[[^\]]+\]:\s")
_INDENTED: Final = re.compile(r"^( {4}|\t)")
_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
_TAG: Final = re.compile(r"</?[a-zA-Z][^<>\n]{0,300}>")
_IMAGE: Final = re.compile(r"!\[[^\]]*\](\([^)]*\)|\[[^\]]*\])")
_LINK: Final = re.compile(r"\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])")
_EMPHASIS: Final = re.compile(r"\*\*|__|(?<![\w/.])[*_](?=\w)|(?<=[\w.!?])[*_](?![\w.])|`+")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9À-ÖØ-ÞА-Я])|(?<=[。！？])")
_NO_END: Final = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|approx|Dr|Mr|Mrs|Ms|Prof|St|No|Fig|Sec|Vol|Inc|Ltd)|\b[A-Z])\.$")
_WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:['’._-][^\W_]+)*")


def paragraphs(markdown: str) -> list[str]:
    """The prose of a Markdown text: one string for each paragraph and list item, without its markup."""
    blocks: list[list[str]] = [[]]
    in_fence = in_list = after_blank = False
    for line in _COMMENT.sub("", markdown).splitlines():
        if _FENCE.match(line):
            in_fence = not in_fence
            blocks.append([])
        elif in_fence or _TABLE_ROW.match(line) or _LINK_TARGET.match(line) or (after_blank and not in_list and _INDENTED.match(line)):
            blocks.append([])
            continue  # what follows an indented line of code is still behind its blank line
        elif not line.strip():
            blocks.append([])
            after_blank = True
            continue
        elif _HEADING.match(line):
            blocks.append([])
            in_list = False
        elif _LIST_ITEM.match(line):
            blocks.append([_LIST_ITEM.sub("", line)])
            in_list = True
        else:
            in_list = in_list and bool(re.match(r"\s", line))
            blocks[-1].append(line)
        after_blank = False
    return [text for block in blocks if (text := _without_markup(" ".join(block)))]


def sentences(markdown: str) -> list[str]:
    """The sentences of a Markdown text, in order."""
    return [sentence for paragraph in paragraphs(markdown) for sentence in _split(paragraph)]


def words(text: str) -> list[str]:
    """The words of a text. Scripts without spaces give a word for each character."""
    return _WORD.findall(text)


class Tokenizer:
    """What sumy asks of a tokenizer. Its own one needs a model that has to be downloaded."""

    def to_sentences(self, paragraph: str) -> tuple[str, ...]:
        """The sentences of a paragraph."""
        return tuple(_split(paragraph))

    def to_words(self, sentence: str) -> tuple[str, ...]:
        """The words of a sentence."""
        return tuple(words(sentence))


def _without_markup(text: str) -> str:
    text = _TAG.sub(" ", _IMAGE.sub("", text))
    text = _EMPHASIS.sub("", _LINK.sub(r"\1", text))
    return " ".join(re.sub(r"^(\s*>)+", "", text).split())


def _split(paragraph: str) -> list[str]:
    found: list[str] = []
    start = 0
    for end in _SENTENCE_END.finditer(paragraph):
        if not _NO_END.search(paragraph[start : end.start() + 1].rstrip()):
            found.append(paragraph[start : end.end()].strip())
            start = end.end()
    found.append(paragraph[start:].strip())
    return [sentence for sentence in found if sentence]
