import pytest

from agent_node.cli.payloads import guess_content_type, payload_fields, payload_text


@pytest.mark.parametrize(
    "payload,expected",
    [
        (b"", "application/octet-stream"),
        (b'{"a": 1}', "application/json"),
        (b"42", "application/json"),
        (b"hello", "text/plain"),
        ("größer".encode(), "text/plain"),
        (b"\xff\xfe", "application/octet-stream"),
    ],
)
def test_the_type_of_a_payload_is_guessed_from_its_looks(payload, expected):
    assert guess_content_type(payload) == expected


@pytest.mark.parametrize(
    "payload,content_type,expected",
    [
        (b'{"a": [1]}', "application/json", {"payload": {"a": [1]}}),
        (b"{}", "Application/LD+JSON; charset=utf-8", {"payload": {}}),
        (b"hi", "text/markdown", {"payload": "hi"}),
        (b"hi", "application/octet-stream", {"payload_base64": "aGk="}),
        (b"{no json", "application/json", {"payload_base64": "e25vIGpzb24="}),
        (b"\xff", "text/plain", {"payload_base64": "/w=="}),
        (b"", "", {"content_type": "application/octet-stream", "payload_base64": ""}),
    ],
)
def test_a_payload_is_decoded_where_its_type_says_so(payload, content_type, expected):
    assert payload_fields(payload, content_type) == {"content_type": content_type} | expected


@pytest.mark.parametrize(
    "payload,content_type,expected",
    [
        (b'{"a":1}', "application/json", '{\n  "a": 1\n}'),
        (b"{", "application/json", "{"),
        (b"plain", "", "plain"),
        (b"\xff\xff", "image/png", "2 bytes of image/png"),
    ],
)
def test_a_payload_for_a_person(payload, content_type, expected):
    assert payload_text(payload, content_type) == expected
