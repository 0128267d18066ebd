"""The example of payloads that the coordinator can't read."""

import pytest

from examples.sealed import __main__ as sealed


async def test_the_story_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    await sealed.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the client got      Summary(patient='A. Nonymous', sentences=2)"
    assert lines[1].endswith("bytes of application/vnd.muster.aes256gcm; kid=2026-11")
    assert lines[2] == "the client got      Summary(patient='B. Nonymous', sentences=500)"
    assert lines[3].endswith("bytes of application/vnd.muster.blob+json")
    assert lines[4:] == ["a letter without text fails at once: the payload's field 'text' doesn't fit Letter: it is required and missing"]
