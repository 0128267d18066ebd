"""What the documents say of the formats is enough to read them in another language."""

import shutil
import subprocess

import pytest

from agent_node.payloads import About, AesGcm, Content, FileBlobStore, Payloads, Zlib
from tests.support.tree import ROOT

KEY = bytes(range(32))


@pytest.mark.parametrize("part", ["payload", "result"])
@pytest.mark.parametrize("blob_above_bytes", [100, 1_000_000])
async def test_a_payload_is_read_by_a_program_in_another_language(tmp_path, part, blob_above_bytes):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on PATH")
    payloads = Payloads([Zlib(), AesGcm({"k": KEY}, active="k")], blobs=FileBlobStore(tmp_path), blob_above_bytes=blob_above_bytes)
    content = Content("grüße ".encode() * 2000, "text/plain; charset=utf-8")
    travelling = await payloads.encode(content, About(part, "täsk-1"))
    command = [node, str(ROOT / "tests/payloads/decode.mjs"), travelling.content_type, "täsk-1", part, KEY.hex(), str(tmp_path)]
    done = subprocess.run(command, input=travelling.data, check=True, capture_output=True, timeout=60)
    content_type, _, data = done.stdout.partition(b"\n")
    assert Content(data, content_type.decode()) == content
