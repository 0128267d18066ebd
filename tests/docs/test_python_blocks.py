"""Every Python block of the documents runs, and prints what it says that it prints."""

import pytest

from agent_node.testing import local_coordinator
from tests.support import provider
from tests.support.documents import DOCUMENTS, Block, Story, blocks, in_a_thread, use_address

_TOLD = [document for document in DOCUMENTS if blocks(document, "python")]


@pytest.fixture(scope="module")
def address():
    with in_a_thread(local_coordinator(webhook_allow=["127.0.0.1"])) as address:
        yield address


@pytest.fixture
def story(address, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    use_address(monkeypatch.setattr, address)
    story = Story(address=address, folder=tmp_path)
    yield story
    story.end()


@pytest.fixture
def model(monkeypatch):
    with in_a_thread(provider.serve(provider.streams(*provider.WHOLE_STREAM))) as served:
        monkeypatch.setenv("MUSTER_LLM_BASE_URL", served.base_url)
        yield


@pytest.mark.parametrize("document", _TOLD, ids=lambda document: document.name)
def test_the_python_blocks_run(document, story, model):
    for block in blocks(document, "python", "toml"):
        story.tell(block)


def test_a_block_that_fails_or_prints_something_else_is_found(story, tmp_path):
    with pytest.raises(ZeroDivisionError):
        story.tell(Block(_TOLD[0], 1, "python", "1 / 0\n"))
    with pytest.raises(AssertionError, match="was not printed"):
        story.tell(Block(_TOLD[0], 1, "python", "print(1 + 1)  # 3\n"))
    with pytest.raises(AssertionError):
        story.tell(Block(_TOLD[0], 1, "python", "async def test_it():\n    assert not 1\n"))
