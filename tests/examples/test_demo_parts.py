"""The demo's parts by themselves: documents, board, report, screen, processes; and the whole job over stand-ins for the coordinator."""

import asyncio
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from agent_node.errors import TaskFailedError
from examples.demo import agents, documents
from examples.demo.board import Board, Sighting, State
from examples.demo.documents import Document, DocumentsError, Section, choose, find_documents, split_into_sections
from examples.demo.fleet import ProviderError, given_provider
from examples.demo.pipeline import Job
from examples.demo.processes import ProcessError, Processes
from examples.demo.report import markdown
from examples.demo.screen import PlainScreen, picture, summary
from examples.demo.work import COMBINE, REVIEW, SPLIT, SUMMARISE, TERMS, Finding
from examples.local_model.answers import answer
from tests.support.eventually import eventually

LONG = "The shepherd counts every sheep of the flock before the gate is closed. " * 12
DOCUMENT = Document("flock.md", f"# Sheep\n\n{LONG}\n\n## Gates\n\nShort.\n\n## Wolves\n\n{LONG}\n\n```\n# no heading\n```\n")


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_documents_are_found_below_a_folder(tmp_path: Path) -> None:
    written(tmp_path, a="text", empty=" ", **{"below/b": "more", ".hidden/c": "no", "node_modules/d": "no"})
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    found = find_documents(tmp_path)
    assert [document.name for document in found.documents] == ["a.md", "below/b.md"]


def test_a_document_that_no_task_can_carry_is_left_out_and_named(tmp_path: Path) -> None:
    written(tmp_path, a="text", huge="x" * 600_000)
    found = find_documents(tmp_path)
    assert [document.name for document in found.documents] == ["a.md"]
    assert found.left_out == ["huge.md: larger than 512 KiB"]


def test_bytes_that_are_no_text_are_read_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 text")
    assert find_documents(tmp_path).documents == [Document("a.txt", "caf\N{REPLACEMENT CHARACTER} text")]


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are Unicode there")
def test_a_file_name_that_is_not_utf8_is_mended(tmp_path):
    (tmp_path / "caf\udce9.txt").write_text("text", encoding="utf-8")
    assert find_documents(tmp_path).documents == [Document("caf\N{REPLACEMENT CHARACTER}.txt", "text")]


def test_nothing_to_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DocumentsError, match=r"holds no \.md"):
        find_documents(tmp_path)
    with pytest.raises(DocumentsError, match="is not a folder"):
        find_documents(tmp_path / "missing")


def test_the_project_has_documents_of_its_own() -> None:
    names = [document.name for document in find_documents(None).documents]
    assert "README.md" in names
    assert not any(name.startswith(("/", ".venv")) for name in names)


def test_sections_are_cut_at_headings_and_short_ones_joined() -> None:
    sections = split_into_sections(DOCUMENT)
    assert [section.title for section in sections] == ["Sheep", "Gates"]
    assert sections[1].text.startswith("Short.")
    assert "# no heading" in sections[1].text


def test_a_long_section_is_cut_between_paragraphs() -> None:
    sections = split_into_sections(Document("a", "# T\n\n" + "\n\n".join([LONG] * 4)))
    assert [section.title for section in sections] == ["T, part 1 of 2", "T, part 2 of 2"]
    assert split_into_sections(Document("a", "# only headings\n\n## here\n")) == []


def test_every_document_has_its_share_of_the_sections() -> None:
    first = [Section("a", str(number), "") for number in range(5)]
    second = [Section("b", str(number), "") for number in range(2)]
    assert [(section.document, section.title) for section in choose([first, second], most=4)] == [
        ("a", "0"),
        ("a", "1"),
        ("b", "0"),
        ("b", "1"),
    ]


def test_few_documents_are_joined_by_the_protos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_FEW_WORDS", 10**9)
    assert "protos/muster/v1/task.proto" in [document.name for document in find_documents(None).documents]
    monkeypatch.setattr(documents, "_FEW_WORDS", 0)
    assert not any(document.name.startswith("protos") for document in find_documents(None).documents)


FINDING = Finding("a.md", "One | two", "A summary.", "x, y", "0 of 1 claims.\n- A summary.", ["analyst-1", "reviewer"], 4)


def test_a_report_is_markdown_with_all_findings() -> None:
    text = markdown(title="Title", overview="Overall.", findings=[FINDING], left_out=["b.md: gone"])
    assert text.startswith("# Title\n\n1 section of 1 document.\n")
    assert "### One | two\n\nA summary.\n" in text
    assert "**Key terms:** x, y" in text
    assert "**Review:** 0 of 1 claims.\n\n- A summary." in text
    assert r"| a.md: One \| two | analyst-1, reviewer | 4 |" in text
    assert text.endswith("## Left out\n\n- b.md: gone\n")
    assert Finding.from_json(json.loads(json.dumps(FINDING.as_json()))) == FINDING


def sighting(task_id: str, state: State, agent: str = "", *, task_type: str = SUMMARISE, tokens: int = 0) -> Sighting:
    return Sighting(task_id, task_type, state, agent, crashes=0, input_tokens=tokens, output_tokens=tokens)


def told(board: Board) -> list[str]:
    return [line for _, line in board.news]


async def test_the_board_follows_a_task_from_agent_to_agent() -> None:
    board = Board(now_s=iter(range(100)).__next__)
    board.name_task("t1", "a.md")
    board.add_agent("analyst-1", role="", pid=7)
    board.add_agent("analyst-2", role="", pid=8)
    board.see(sighting("t1", State.PENDING))
    board.see(sighting("t1", State.RUNNING, "analyst-1"))
    assert board.held_by("analyst-1") == ["t1"]
    board.mark_killed("analyst-1")
    board.see(sighting("t1", State.PENDING, "analyst-1"))
    board.see(sighting("t1", State.RUNNING, "analyst-2"))
    board.see(sighting("t1", State.COMPLETED, "analyst-2", tokens=5))
    board.see(sighting("t1", State.COMPLETED, "analyst-2", tokens=5))
    assert told(board) == ["summarise: a.md moved from analyst-1 to analyst-2", "summarise: a.md completed at analyst-2"]
    assert (board.held_by("analyst-1"), len(board.completed_by("analyst-2"))) == ([], 1)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(picture(board))
    console.print(summary(board))
    shown = console.export_text()
    assert "killed with -9" in shown
    assert "1/1" in shown


async def test_without_a_terminal_news_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board(now_s=asyncio.get_running_loop().time)
    following = asyncio.create_task(PlainScreen(Console(width=40)).follow(board))
    board.tell("[first] " + "x" * 60)
    await asyncio.sleep(0)
    board.tell("last")
    following.cancel()
    await asyncio.wait([following])
    assert [line[10:] for line in capsys.readouterr().out.splitlines()] == ["[first] " + "x" * 60, "last"]


class FakeHandle:
    def __init__(self, output) -> None:
        self._output = output

    async def result(self):
        if isinstance(self._output, Exception):
            raise self._output
        payload = self._output
        return SimpleNamespace(agent_name="someone", attempts=1, json=lambda: payload, text=lambda: payload)


class FakeClient:
    """Runs each task at once, with the demo's own handlers and the local model's answers."""

    def __init__(self) -> None:
        self.submitted: list[tuple[str, str]] = []
        self.fails = ""

    async def submit(self, task_type, payload, *, task_id, priority=None, run_timeout_s=None):
        self.submitted.append((task_id, task_type))
        context = SimpleNamespace(json=lambda: payload, progress=lambda *_: None, client=self, task_id=task_id)
        if task_type == self.fails:
            return FakeHandle(TaskFailedError(task_id, "no", kind="PROVIDER_REJECTED"))
        match task_type:
            case "demo.split":
                return FakeHandle(agents.split(context))
            case "demo.combine":
                return FakeHandle(await agents.combine(context))
            case _:
                prompt = payload["template"].format(**payload["variables"])
                messages = [{"role": "system", "content": payload["system"]}, {"role": "user", "content": prompt}]
                return FakeHandle({"content": answer(messages)})


async def test_the_job_splits_analyses_reviews_and_combines() -> None:
    client, board = FakeClient(), Board(now_s=asyncio.get_running_loop().time)
    job = Job(client=client, board=board, most_sections=3)
    report = await job.run([DOCUMENT, Document("b.md", "# B\n\nWolves fear the dog of the shepherd."), DOCUMENT], left_out=["c.md: gone"])
    kinds = [task_type for _, task_type in client.submitted]
    assert [kinds.count(kind) for kind in (SPLIT, SUMMARISE, TERMS, REVIEW, COMBINE)] == [3, 4, 3, 3, 1]
    assert client.submitted[-1] == ("combine-1-overview", SUMMARISE)
    assert job.analyses_planned == 6
    assert "# What 3 documents say" in report
    assert "Wolves fear the dog of the shepherd." in report
    assert "1 of 1 claims are supported by the source." in report
    assert "- 2 of 5 sections, to keep the demo short" in report
    assert "- c.md: gone" in report


async def test_a_task_that_fails_fails_the_job_with_its_reason() -> None:
    client = FakeClient()
    client.fails = REVIEW
    job = Job(client=client, board=Board(now_s=asyncio.get_running_loop().time), most_sections=9)
    with pytest.raises(TaskFailedError, match="no"):
        await job.run([DOCUMENT], left_out=[])


async def test_documents_without_a_sentence_are_said_so() -> None:
    job = Job(client=FakeClient(), board=Board(now_s=asyncio.get_running_loop().time), most_sections=9)
    with pytest.raises(DocumentsError, match="nothing to analyse"):
        await job.run([Document("a.md", "# Only a heading\n")], left_out=[])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


SLEEPER = "import time; print('ready at 5', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


async def test_processes_say_when_they_are_ready_and_are_all_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.demo.processes._ENDS_WITHIN_S", 0.3)
    async with Processes(logs=tmp_path, cwd=tmp_path) as processes:
        sleeper = await processes.start("sleeper", ["-c", SLEEPER], environment={})
        deaf = await processes.start("deaf", ["-c", DEAF], environment={})
        assert await processes.ready_line(sleeper, "ready at ") == "5"
        await processes.ready_line(deaf, "ready")
        pids = [sleeper.pid, deaf.pid]
    assert not any(alive(pid) for pid in pids)


async def test_processes_are_ended_although_whoever_ends_them_is_cancelled_again(tmp_path: Path) -> None:
    pids: list[int] = []

    async def demo() -> None:
        async with Processes(logs=tmp_path, cwd=tmp_path) as processes:
            child = await processes.start("sleeper", ["-c", SLEEPER], environment={})
            await processes.ready_line(child, "ready")
            pids.append(child.pid)
            await asyncio.Event().wait()

    running = asyncio.create_task(demo())
    await eventually(lambda: pids, message="the child is up")
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not alive(pids[0])


async def test_a_process_that_ends_instead_of_starting_shows_its_last_words(tmp_path: Path) -> None:
    async with Processes(logs=tmp_path, cwd=tmp_path) as processes:
        child = await processes.start("broken", ["-c", "raise SystemExit('no such thing')"], environment={})
        with pytest.raises(ProcessError, match=r"broken ended with 1 instead of starting:\n    no such thing"):
            await processes.ready_line(child, "ready")


async def test_a_process_that_ends_by_itself_is_noticed_and_one_that_was_killed_is_not(tmp_path: Path) -> None:
    async with Processes(logs=tmp_path, cwd=tmp_path) as processes:
        victim = await processes.start("victim", ["-c", SLEEPER], environment={})
        other = await processes.start("other", ["-c", SLEEPER], environment={})
        watching = asyncio.create_task(processes.watch())
        await processes.kill(victim)
        assert victim.process.returncode == -9
        assert not watching.done()
        os.kill(other.pid, 9)
        with pytest.raises(ProcessError, match="other ended with -9"):
            await watching


def test_a_provider_is_one_with_a_base_url_and_a_key() -> None:
    environment = {"MUSTER_LLM_BASE_URL": "https://api.holysheep.ai/v1", "MUSTER_LLM_API_KEY": "k", "MUSTER_LLM_MODEL": "m"}
    assert given_provider(environment) == environment
    assert given_provider({**environment, "MUSTER_LLM_API_KEY": ""}) is None
    with pytest.raises(ProviderError, match="MUSTER_LLM_MODEL"):
        given_provider({**environment, "MUSTER_LLM_MODEL": ""})
