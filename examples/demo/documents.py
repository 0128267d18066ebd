"""What the demo reads: finding documents, and cutting them into sections. Pure but for reading files."""

import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[2]
SUFFIXES: Final = (".md", ".markdown", ".rst", ".txt")
_MOST_DOCUMENTS: Final = 60
_LARGEST_DOCUMENT_BYTES: Final = 512 * 1024  # a task's payload holds 1 MiB, in JSON
_FEW_WORDS: Final = 4_000  # with fewer, the project's own documents are joined by the comments of its protos
_SKIPPED_FOLDERS: Final = frozenset({"node_modules", "build", "dist", "__pycache__"})
_SECTION_WORDS: Final = 120  # a section with fewer is joined with the next
_LONGEST_SECTION_WORDS: Final = 450
_HEADING: Final = re.compile(r"^#{1,4}\s+(.+?)\s*#*\s*$")
_FENCE: Final = re.compile(r"^\s{0,3}(```|~~~)")


class DocumentsError(Exception):
    """There is nothing to read; the message says what to do."""


@dataclass(frozen=True)
class Document:
    """A text and what to call it."""

    name: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of a document that is analysed by itself."""

    document: str
    title: str
    text: str

    def as_json(self) -> dict[str, str]:
        """The section as tasks carry it."""
        return asdict(self)

    @property
    def label(self) -> str:
        """What to call it on a screen."""
        return f"{self.document} § {self.title}" if self.title else self.document


@dataclass(frozen=True)
class Found:
    """Documents, and a sentence for each file that was left out."""

    documents: list[Document]
    left_out: list[str]


def _name(file: Path, root: Path) -> str:
    """A file's name as text: one that isn't UTF-8 can't travel in a task."""
    return os.fsencode(file.relative_to(root)).decode(errors="replace")


def find_documents(folder: Path | None) -> Found:
    """The documents of a folder and those below it, or the project's own.

    Args:
        folder: where to look; None for the project's own documents.

    Raises:
        DocumentsError: there are none.
    """
    if folder is not None:
        if not folder.is_dir():
            raise DocumentsError(f"{folder} is not a folder: give one that holds {', '.join(SUFFIXES)} files")
        found = _read(folder, sorted(_texts_below(folder)))
    else:
        found = _read(PROJECT, [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").rglob("*.md"))])
        if sum(len(document.text.split()) for document in found.documents) < _FEW_WORDS:
            found.documents.extend(_proto_comments())
    if not found.documents:
        raise DocumentsError(f"{folder or PROJECT} holds no {', '.join(SUFFIXES)} file with text in it")
    return found


def split_into_sections(document: Document) -> list[Section]:
    """The document cut at its headings; short sections are joined, and long ones cut between paragraphs."""
    sections: list[Section] = []
    for title, text in _joined(_by_heading(document.text)):
        parts = _parts(text)
        for number, part in enumerate(parts, start=1):
            place = f"part {number} of {len(parts)}" if len(parts) > 1 else ""
            sections.append(Section(document.name, ", ".join(filter(None, (title, place))), part))
    return sections


def choose(sections: Iterable[list[Section]], *, most: int) -> list[Section]:
    """At most `most` sections of several documents, their first ones first, so that every document has its share."""
    by_rank = zip_longest(*sections)
    taken = [section for rank in by_rank for section in rank if section is not None][:most]
    return sorted(taken, key=lambda section: section.document)


def _texts_below(folder: Path) -> Iterable[Path]:
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in inside):
            yield path


def _read(root: Path, files: list[Path]) -> Found:
    documents: list[Document] = []
    left_out = [f"{_name(file, root)}: more than {_MOST_DOCUMENTS} documents" for file in files[_MOST_DOCUMENTS:]]
    for file in files[:_MOST_DOCUMENTS]:
        name = _name(file, root)
        try:
            data = file.read_bytes()
        except OSError as error:
            left_out.append(f"{name}: {error.strerror or type(error).__name__}")
            continue
        if len(data) > _LARGEST_DOCUMENT_BYTES:
            left_out.append(f"{name}: larger than {_LARGEST_DOCUMENT_BYTES // 1024} KiB")
        elif data.strip():
            documents.append(Document(name, data.decode("utf-8", errors="replace")))
    return Found(documents, left_out)


def _proto_comments() -> Iterable[Document]:
    for file in sorted((PROJECT / "protos").rglob("*.proto")):
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        text = "\n".join(line.removeprefix("//").strip() if line.startswith("//") else "" for line in lines)
        yield Document(str(file.relative_to(PROJECT)), re.sub(r"\n{3,}", "\n\n", text).strip())


def _by_heading(text: str) -> Iterable[tuple[str, str]]:
    title, lines, in_fence = "", list[str](), False
    for line in text.splitlines():
        if _FENCE.match(line):
            in_fence = not in_fence
        heading = None if in_fence else _HEADING.match(line)
        if heading is None:
            lines.append(line)
            continue
        yield title, "\n".join(lines).strip()
        title, lines = heading[1].replace("`", ""), []
    yield title, "\n".join(lines).strip()


def _joined(sections: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """The sections that have text, a short one together with what follows, under the first one's title."""
    held_title, held = "", ""
    for title, text in sections:
        if not text:
            held_title = held_title or title
            continue
        held_title = held_title or title
        held = f"{held}\n\n{text}" if held else text
        if len(held.split()) >= _SECTION_WORDS:
            yield held_title, held
            held_title, held = "", ""
    if held:
        yield held_title, held


def _parts(text: str) -> list[str]:
    parts: list[str] = []
    part: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        if part and len(" ".join([*part, paragraph]).split()) > _LONGEST_SECTION_WORDS:
            parts.append("\n\n".join(part))
            part = []
        part.append(paragraph)
    return [*parts, "\n\n".join(part)]
