"""The finished report, as Markdown. Pure."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from examples.demo.work import Finding


def markdown(*, title: str, overview: str, findings: Sequence[Finding], left_out: Iterable[str]) -> str:
    """The report on all findings, grouped by document in their order."""
    documents = {finding.document for finding in findings}
    lines = [f"# {_line(title)}", "", f"{_count(len(findings), 'section')} of {_count(len(documents), 'document')}.", ""]
    lines += ["## Overview", "", overview or "(the model had nothing to say)", ""]
    for document, group in groupby(findings, key=lambda finding: finding.document):
        lines += [f"## {_line(document)}", ""]
        for finding in group:
            lines += [f"### {_line(finding.title) or 'Opening'}", "", finding.summary or "(nothing to summarise)", ""]
            if finding.terms:
                lines += [f"**Key terms:** {_line(finding.terms)}", ""]
            lines += ["**Review:** " + finding.review.strip().replace("\n- ", "\n\n- ", 1), ""]
    lines += ["## Where it ran", "", "| section | agents | attempts |", "| --- | --- | --- |"]
    for finding in findings:
        where = _cell(f"{finding.document}: {finding.title}" if finding.title else finding.document)
        lines.append(f"| {where} | {_cell(', '.join(finding.agents))} | {finding.attempts} |")
    gaps = list(left_out)
    if gaps:
        lines += ["", "## Left out", "", *(f"- {_line(gap)}" for gap in gaps)]
    return "\n".join(lines) + "\n"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
