"""The job: split, analyse in parallel, review, combine. Knows tasks and their results, and neither processes nor screens."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from agent_node import Priority
from examples.demo.board import Board
from examples.demo.documents import Document, DocumentsError, Section, choose
from examples.demo.work import (
    COMBINE,
    REVIEW,
    SPLIT,
    SUMMARISE,
    TERMS,
    Finding,
    overview_task_id,
    review_payload,
    summarise_payload,
    terms_payload,
)

_T = TypeVar("_T")
_RUN_TIMEOUT_S = 120.0


class Output(Protocol):
    """What the job reads of a task's output."""

    @property
    def agent_name(self) -> str:
        """Who completed it."""

    @property
    def attempts(self) -> int:
        """How often it was tried."""

    def json(self) -> Any:
        """The result."""

    def text(self) -> str:
        """The result as text."""


class Handle(Protocol):
    """What the job asks of a submitted task."""

    async def result(self) -> Output:
        """Waits for its end."""


class Submits(Protocol):
    """What the job needs of a client."""

    async def submit(self, task_type: str, payload: dict[str, Any], *, task_id: str, priority: Priority, run_timeout_s: float) -> Handle:
        """Submits a task."""


class Job:
    """One run over some documents.

    Args:
        client: where tasks go.
        board: told what each task is called.
        most_sections: further sections are left out, and the report says so.
    """

    def __init__(self, *, client: Submits, board: Board, most_sections: int) -> None:
        self._client = client
        self._board = board
        self._most_sections = most_sections
        self._submitted: Counter[str] = Counter()
        self.analyses_planned = 0
        """How many analyses there will be; 0 until the documents are split."""

    async def run(self, documents: Sequence[Document], *, left_out: Sequence[str]) -> str:
        """The report's Markdown.

        Raises:
            TaskFailedError, UnavailableError: the job can't be finished.
            DocumentsError: there is nothing in the documents.
        """
        split = await _all([self._split(document) for document in documents])
        sections = choose(split, most=self._most_sections)
        if not sections:
            raise DocumentsError("the documents hold no text below their headings: there is nothing to analyse")
        found = sum(len(each) for each in split)
        gaps = [*left_out]
        if found > len(sections):
            gaps.append(f"{found - len(sections)} of {found} sections, to keep the demo short")
        self._board.tell(f"{len(documents)} document(s) split into {found} section(s), {len(sections)} of them to analyse")
        self.analyses_planned = 2 * len(sections)
        findings = await _all([self._examine(section) for section in sections])
        title = f"What {len(documents)} documents say" if len(documents) > 1 else f"What {documents[0].name} says"
        payload = {"title": title, "findings": [finding.as_json() for finding in findings], "left_out": gaps}
        output = await self._done(COMBINE, payload, "the report", Priority.HIGH)
        return output.text()

    async def _split(self, document: Document) -> list[Section]:
        output = await self._done(SPLIT, {"name": document.name, "text": document.text}, document.name, Priority.HIGH)
        return [Section(**section) for section in output.json()["sections"]]

    async def _examine(self, section: Section) -> Finding:
        """Two analyses at a time, and the review as soon as there is a summary."""
        summary, terms = await _all(
            [
                self._done(SUMMARISE, summarise_payload(section), section.label, Priority.NORMAL),
                self._done(TERMS, terms_payload(section), section.label, Priority.NORMAL),
            ]
        )
        text = summary.json()["content"]
        review = await self._done(REVIEW, review_payload(section, text), section.label, Priority.HIGH)
        steps = (summary, terms, review)
        return Finding(
            section.document,
            section.title,
            summary=text,
            terms=terms.json()["content"],
            review=review.json()["content"],
            agents=list(dict.fromkeys(step.agent_name for step in steps)),
            attempts=sum(step.attempts for step in steps),
        )

    async def _done(self, task_type: str, payload: dict[str, Any], label: str, priority: Priority) -> Output:
        # The demo's store is new, so ids that a person can type are free: `muster explain summarise-7`.
        self._submitted[task_type] += 1
        task_id = f"{task_type.rpartition('.')[2]}-{self._submitted[task_type]}"
        self._board.name_task(task_id, label)
        if task_type == COMBINE:
            self._board.name_task(overview_task_id(task_id), "the overview")
        handle = await self._client.submit(task_type, payload, task_id=task_id, priority=priority, run_timeout_s=_RUN_TIMEOUT_S)
        return await handle.result()


async def _all(steps: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """The results of all steps; the first failure cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(step) for step in steps]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in running]
