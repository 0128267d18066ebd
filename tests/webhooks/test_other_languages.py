"""What the guide says in another language is true."""

import json
import shutil
import subprocess

import pytest

from coordinator.webhook_signing import sign
from tests.support.documents import blocks
from tests.support.receiver import SECRET
from tests.support.tree import ROOT

OTHER = "whsec_" + "b" * 32


@pytest.mark.parametrize("case", ["right", "the second of two", "another body", "another secret", "old"])
def test_the_javascript_of_the_guide_tells_what_is_genuine(tmp_path, case):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on PATH")
    (block,) = blocks(ROOT / "docs" / "webhooks.md", "js")
    body, sent_s = "grüße".encode(), 1_700_000_000
    secrets = {"the second of two": [OTHER, SECRET], "another secret": [OTHER]}.get(case, [SECRET])
    signed = sign(secrets, "evt_1", sent_s, body)
    headers = {"webhook-id": "evt_1", "webhook-timestamp": str(sent_s), "webhook-signature": signed}
    received = b"another" if case == "another body" else body
    now_s = sent_s + (301 if case == "old" else 10)
    call = f"isGenuine({json.dumps(headers)}, Buffer.from({received.hex()!r}, 'hex'), {SECRET!r}, {now_s})"
    program = tmp_path / "verify.mjs"
    program.write_text(f"{block.text}\nconsole.log({call})\n", encoding="utf-8")
    done = subprocess.run([node, str(program)], check=True, capture_output=True, timeout=60)
    assert done.stdout.decode().strip() == ("true" if case in ("right", "the second of two") else "false")
