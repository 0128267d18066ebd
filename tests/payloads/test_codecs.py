"""Compression and encryption, and every way in which what they made can't be undone."""

import dataclasses
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node import PayloadError
from agent_node.payloads import About, AesGcm, Content, Zlib
from agent_node.payloads.content import pack, unpack
from tests.support.tree import ROOT

ABOUT = About("payload", "t-1")
TEXT = Content(b"muster " * 1000, "text/plain; charset=utf-8")
MIB = 1024 * 1024
KEYS = {"old": bytes(range(32)), "new": bytes(range(1, 33))}


def decode(codec, content, about=ABOUT, max_bytes=MIB):
    return codec.decode(content, about, max_bytes=max_bytes)


@pytest.fixture
def aes():
    return AesGcm(KEYS, active="new")


@given(data=st.binary(max_size=3000), content_type=st.text(max_size=50))
def test_what_is_encoded_is_decoded(data, content_type):
    content = Content(data, content_type)
    assert unpack(pack(content)) == content
    for codec in (Zlib(min_bytes=0), AesGcm(KEYS, active="new")):
        encoded = codec.encode(content, ABOUT)
        assert encoded == content or decode(codec, encoded) == content


# compression


def test_compression_is_for_what_gets_smaller(rng):
    assert len(Zlib().encode(TEXT, ABOUT).data) < 200
    for content in (Content(b"a" * 1023, "x/y"), Content(rng.randbytes(5000), "x/y")):
        assert Zlib().encode(content, ABOUT) is content
    assert Zlib(min_bytes=0).encode(Content(b"a" * 1023, "x/y"), ABOUT).content_type == Zlib.media_type


def test_a_bomb_is_not_inflated(monkeypatch):
    bomb = Content(zlib.compress(pack(Content(bytes(100 * MIB), "x/y"))), Zlib.media_type)
    produced = []
    inflater = zlib.decompressobj

    class Watched:
        def __init__(self):
            self._inflater = inflater()

        def decompress(self, data, most):
            produced.append(len(result := self._inflater.decompress(data, most)))
            return result

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(PayloadError, match=f"inflates to more than the {MIB} bytes"):
        decode(Zlib(), bomb)
    assert sum(produced) < 2 * MIB


def test_exactly_the_largest_payload_inflates():
    content = Content(bytes(MIB), "text/plain; charset=utf-8")
    assert decode(Zlib(), Zlib().encode(content, ABOUT)) == content


@pytest.mark.parametrize("spoil", [lambda data: b"no zlib", lambda data: data[:-5], lambda data: data + b"x", lambda data: b""])
def test_what_is_no_zlib_data_is_refused(spoil):
    encoded = Zlib().encode(TEXT, ABOUT)
    with pytest.raises(PayloadError, match="zlib"):
        decode(Zlib(), Content(spoil(encoded.data), encoded.content_type))


@pytest.mark.parametrize("packed", [b"", b"\x00", b"\x00\x05ab", b"\x00\x02\xff\xfe"])
def test_what_was_packed_otherwise_is_refused(packed):
    with pytest.raises(PayloadError, match="content type"):
        decode(Zlib(), Content(zlib.compress(packed), Zlib.media_type))


def test_a_content_type_too_long_to_pack_is_refused():
    with pytest.raises(PayloadError, match="at most 65535"):
        pack(Content(b"", "x" * 65_536))


# encryption


def test_nothing_of_a_payload_shows(aes):
    encrypted = aes.encode(TEXT, ABOUT)
    assert b"muster" not in encrypted.data
    assert "text" not in encrypted.content_type
    assert encrypted.content_type == "application/vnd.muster.aes256gcm; kid=new"
    assert "muster" not in repr(TEXT)


def test_the_same_payload_of_the_same_task_is_the_same_again_and_another_is_not(aes):
    once = aes.encode(TEXT, ABOUT)
    assert AesGcm(KEYS, active="new").encode(TEXT, ABOUT) == once
    others = [
        aes.encode(TEXT, About("payload", "t-2")),
        aes.encode(TEXT, About("result", "t-1")),
        aes.encode(dataclasses.replace(TEXT, content_type="x/y"), ABOUT),
        aes.encode(dataclasses.replace(TEXT, data=TEXT.data + b"!"), ABOUT),
        AesGcm(KEYS, active="old").encode(TEXT, ABOUT),
    ]
    assert len({each.data[:12] for each in (once, *others)}) == 6  # no nonce twice


def test_keys_rotate(aes):
    before = AesGcm({"old": KEYS["old"]}, active="old").encode(TEXT, ABOUT)
    assert decode(aes, before) == TEXT
    with pytest.raises(PayloadError, match="key 'new', which is not among"):
        decode(AesGcm({"old": KEYS["old"]}, active="old"), aes.encode(TEXT, ABOUT))


@pytest.mark.parametrize(
    "about, spoil",
    [
        (About("payload", "t-2"), lambda data: data),
        (About("result", "t-1"), lambda data: data),
        (ABOUT, lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        (ABOUT, lambda data: bytes([data[0] ^ 1]) + data[1:]),
        (ABOUT, lambda data: data[:20]),
        (ABOUT, lambda data: b""),
    ],
)
def test_what_was_changed_or_is_of_another_task_is_refused(aes, about, spoil):
    encrypted = aes.encode(TEXT, ABOUT)
    with pytest.raises(PayloadError, match="can't be decrypted with key 'new'") as refused:
        decode(aes, Content(spoil(encrypted.data), encrypted.content_type), about)
    assert refused.value.__suppress_context__


def test_a_wrong_key_and_a_missing_key_id_are_told_apart(aes):
    encrypted = aes.encode(TEXT, ABOUT)
    with pytest.raises(PayloadError, match="the key is another one"):
        decode(AesGcm({"new": KEYS["old"]}, active="new"), encrypted)
    with pytest.raises(PayloadError, match="not with which key"):
        decode(aes, Content(encrypted.data, AesGcm.media_type))


@pytest.mark.parametrize(
    "keys, active, message",
    [
        ({"k": b"short"}, "k", "has 5 bytes, and AES-256 needs 32"),
        ({"a b": bytes(32)}, "a b", "letters, digits"),
        ({}, "k", "no key 'k' to encrypt with, only none"),
        ({"a": bytes(32)}, "k", "only a"),
    ],
)
def test_wrong_keys_are_refused_and_never_shown(keys, active, message):
    with pytest.raises(ValueError, match=message) as refused:
        AesGcm(keys, active=active)
    assert "short" not in str(refused.value)


def test_keys_are_not_shown(aes):
    assert repr(aes) == "AesGcm(keys=['new', 'old'], active='new')"


def test_without_its_extra_encryption_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ModuleNotFoundError, match=r"muster-agents\[encryption\]"):
        AesGcm(KEYS, active="new")


def test_sizes_and_levels_have_a_range():
    for wrong in ({"min_bytes": -1}, {"level": 0}, {"level": 10}):
        with pytest.raises(ValueError, match="min_bytes is 0 or more"):
            Zlib(**wrong)


def test_the_formats_stay_what_they_are(aes):
    """As docs/payloads.md describes them: what one version wrote, the next must read."""
    content = Content(b"hello", "text/plain")
    assert pack(content) == b"\x00\x0atext/plainhello"
    encrypted = Content(bytes.fromhex(VECTOR), "application/vnd.muster.aes256gcm; kid=new")
    assert aes.encode(content, ABOUT) == encrypted
    assert decode(aes, encrypted) == content
    assert VECTOR in (ROOT / "docs" / "payloads.md").read_text(encoding="utf-8")


VECTOR = "57636729fe06f47bb7f297fece80f72b4fbfa6c3a01f6cceb2232082c8515cc93521b3f838740718309fb12f48"
