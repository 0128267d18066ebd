"""The job's vocabulary: its task types, the prompts, and what the stages hand to each other. Pure."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from examples.demo.documents import Section

SPLIT: Final = "demo.split"
SUMMARISE: Final = "demo.summarise"
TERMS: Final = "demo.terms"
REVIEW: Final = "demo.review"
COMBINE: Final = "demo.combine"
STAGES: Final = (SPLIT, SUMMARISE, TERMS, REVIEW, COMBINE)


@dataclass(frozen=True)
class Finding:
    """What the agents found out about one section, and who did which part."""

    document: str
    title: str
    summary: str
    terms: str
    review: str
    agents: list[str]
    attempts: int

    def as_json(self) -> dict[str, Any]:
        """The finding as tasks carry it."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The finding that a task carried."""
        return cls(**document)


def summarise_payload(section: Section) -> dict[str, Any]:
    """Asks a model for a section's summary."""
    return _prompt("Summarise the text in 3 sentences. Use only what the text says.", "{text}", text=section.text)


def terms_payload(section: Section) -> dict[str, Any]:
    """Asks a model for a section's key terms."""
    return _prompt("Name the 6 key terms of the text, separated by commas. Answer with them alone.", "{text}", text=section.text)


def review_payload(section: Section, summary: str) -> dict[str, Any]:
    """Asks a model to hold a summary against its section."""
    system = (
        "You review a summary against its source. Begin with how many of its claims the source supports, then list each claim that it "
        "doesn't support as one line that begins with a dash. Add nothing else."
    )
    return _prompt(system, "Claims:\n{claims}\n\nSource:\n{source}", claims=summary, source=section.text)


def overview_task_id(combine_task_id: str) -> str:
    """The id of the overview's task. A second attempt to combine submits the same id with the same content: that is the same task."""
    return f"{combine_task_id}-overview"


def overview_payload(summaries: list[str]) -> dict[str, Any]:
    """Asks a model for the summary of all summaries."""
    return _prompt("Summarise the text in 5 sentences for a busy reader.", "{text}", text="\n\n".join(summaries))


def _prompt(system: str, template: str, **variables: str) -> dict[str, Any]:
    return {"system": system, "template": template, "variables": variables, "temperature": 0}
