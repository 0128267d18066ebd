"""The demo's own agents, each run as a process: muster-agent examples.demo.agents:splitter, and :combiner.

The analysts and the reviewer are no code of the demo: they are the built-in LLM agent (muster-agent llm).
"""

from agent_node import Agent, Context
from examples.demo.documents import Document, split_into_sections
from examples.demo.report import markdown
from examples.demo.work import COMBINE, SPLIT, SUMMARISE, Finding, overview_payload, overview_task_id

splitter = Agent("splitter", capacity=2)
combiner = Agent("combiner", capacity=1)


@splitter.handler(SPLIT)
def split(context: Context) -> dict[str, object]:
    """Cuts one document into sections."""
    task = context.json()
    sections = split_into_sections(Document(task["name"], task["text"]))
    context.progress(len(sections), len(sections), "sections")
    return {"sections": [section.as_json() for section in sections]}


@combiner.handler(COMBINE)
async def combine(context: Context) -> str:
    """Puts all findings into one report. The overview is one more task for an analyst: a child of this one."""
    task = context.json()
    findings = [Finding.from_json(finding) for finding in task["findings"]]
    context.progress(1, 3, "asking for the overview")
    question = overview_payload([finding.summary for finding in findings])
    overview = await context.client.submit(SUMMARISE, question, task_id=overview_task_id(context.task_id))
    text: str = (await overview.result()).json()["content"]
    context.progress(2, 3, "writing")
    return markdown(title=task["title"], overview=text, findings=findings, left_out=task["left_out"])
