"""The way of payloads through codecs and blobs, and back."""

import asyncio
import hashlib
import json
import threading

import pytest

from agent_node import BlobGoneError, PayloadError, UnavailableError
from agent_node.payloads import About, AesGcm, Content, FileBlobStore, Payloads, Zlib
from agent_node.payloads.blobs import MEDIA_TYPE

ABOUT = About("payload", "t-1")
AES = AesGcm({"k": bytes(32)}, active="k")
LARGE = Content(b"large " * 1000, "text/plain")


class Memory:
    """A blob store, and how to make it fail."""

    def __init__(self):
        self.blobs = {}
        self.error = None

    async def put(self, key, data):
        if self.error:
            raise self.error
        self.blobs[key] = data
        return f"mem:{key}"

    async def get(self, url, *, max_bytes):
        if self.error:
            raise self.error
        return self.blobs[url.removeprefix("mem:")][: max_bytes + 1]

    async def delete(self, url):
        del self.blobs[url.removeprefix("mem:")]


@pytest.fixture
def memory():
    return Memory()


def reference(content):
    return json.loads(content.data)


def referring(**fields):
    whole = {"url": "mem:x", "size": 1, "sha256": "0" * 64, "content_type": "x/y"} | fields
    return Content(json.dumps({name: value for name, value in whole.items() if value is not ...}).encode(), MEDIA_TYPE)


@pytest.mark.parametrize("codecs", [[], [Zlib()], [AES], [Zlib(), AES], [AES, Zlib(min_bytes=0)]])
@pytest.mark.parametrize("size", [0, 10, 2000, 200_000])
async def test_there_and_back(memory, codecs, size):
    payloads = Payloads(codecs, blobs=memory, blob_above_bytes=1500)
    content = Content(b"x" * size, "text/plain; charset=utf-8")
    travelling = await payloads.encode(content, ABOUT)
    assert await payloads.encode(content, ABOUT) == travelling  # the same task again is the same task
    assert await payloads.decode(travelling, ABOUT) == content
    assert payloads.encoded(travelling.content_type) == (travelling != content)


async def test_what_is_large_after_the_codecs_goes_into_a_blob(memory):
    payloads = Payloads([Zlib()], blobs=memory, blob_above_bytes=100)
    assert (await payloads.encode(LARGE, ABOUT)).content_type == Zlib.media_type
    assert not memory.blobs
    plain = Payloads(blobs=memory, blob_above_bytes=100)
    travelling = await plain.encode(LARGE, ABOUT)
    digest = hashlib.sha256(LARGE.data).hexdigest()
    assert reference(travelling) == {"url": f"mem:{digest}", "size": 6000, "sha256": digest, "content_type": "text/plain"}
    assert await payloads.decode(travelling, ABOUT) == LARGE


async def test_blobs_are_encrypted(memory):
    payloads = Payloads([AES], blobs=memory, blob_above_bytes=100)
    travelling = await payloads.encode(LARGE, ABOUT)
    assert reference(travelling)["content_type"] == "application/vnd.muster.aes256gcm; kid=k"
    assert not any(b"large" in blob for blob in memory.blobs.values())


async def test_reading_goes_by_what_arrives(memory):
    travelling = await Payloads([Zlib(), AES]).encode(LARGE, ABOUT)
    reader = Payloads([AES, Zlib()])
    assert await reader.decode(travelling, ABOUT) == LARGE
    assert await reader.decode(LARGE, ABOUT) is LARGE


async def test_large_contents_are_coded_off_the_loop():
    threads = []

    class Tracing(Zlib):
        def encode(self, content, about):
            threads.append(threading.get_ident())
            return super().encode(content, about)

        def decode(self, content, about, *, max_bytes):
            threads.append(threading.get_ident())
            return super().decode(content, about, max_bytes=max_bytes)

    payloads = Payloads([Tracing(level=1)])
    for size in (2000, 70_000):
        await payloads.encode(Content(bytes(size), "x/y"), ABOUT)
    assert [thread == threading.get_ident() for thread in threads] == [True, False]


# what can't be undone


@pytest.mark.parametrize(
    "content, message",
    [
        (Content(b"", "application/vnd.muster.brotli; q=1"), "encoded as application/vnd.muster.brotli; q=1: give"),
        (Content(b"", "Application/Vnd.Muster.Brotli"), "give Payloads"),
        (referring(), "in blob mem:x: give"),
    ],
)
async def test_what_there_is_nothing_for_is_refused(content, message):
    with pytest.raises(PayloadError, match=message):
        await Payloads().decode(content, ABOUT)


@pytest.mark.parametrize(
    "content",
    [
        Content(b"{", MEDIA_TYPE),
        Content(b"[]", MEDIA_TYPE),
        referring(url=...),
        referring(url=7),
        referring(size="1"),
        referring(size=True),
        referring(sha256="short"),
        referring(content_type=None),
    ],
)
async def test_malformed_references_are_refused(memory, content):
    with pytest.raises(PayloadError, match="blob reference"):
        await Payloads(blobs=memory).decode(content, ABOUT)


async def test_a_blob_that_changed_is_refused(memory):
    payloads = Payloads(blobs=memory, blob_above_bytes=10)
    travelling = await payloads.encode(LARGE, ABOUT)
    (key,) = memory.blobs
    for changed in (LARGE.data[:-1] + b"?", LARGE.data[:-1], LARGE.data + b"?"):
        memory.blobs[key] = changed
        with pytest.raises(PayloadError, match="is not what was stored"):
            await payloads.decode(travelling, ABOUT)
    memory.blobs[key] = LARGE.data
    lying = referring(**reference(travelling) | {"size": len(LARGE.data) + 1})
    with pytest.raises(PayloadError, match="is not what was stored"):
        await payloads.decode(lying, ABOUT)


async def test_a_blob_that_is_gone_is_final_and_a_store_that_fails_is_not(tmp_path, memory):
    store = FileBlobStore(tmp_path)
    payloads = Payloads(blobs=store, blob_above_bytes=10)
    travelling = await payloads.encode(LARGE, ABOUT)
    await store.delete(reference(travelling)["url"])
    with pytest.raises(BlobGoneError):
        await payloads.decode(travelling, ABOUT)
    failing = Payloads(blobs=memory, blob_above_bytes=10)
    travelling = await failing.encode(LARGE, ABOUT)
    memory.error = OSError("no route")
    for use in (failing.encode(LARGE, ABOUT), failing.decode(travelling, ABOUT)):
        with pytest.raises(UnavailableError, match="OSError: no route"):
            await use


async def test_nothing_is_larger_than_the_bound(memory):
    payloads = Payloads([Zlib()], blobs=memory, max_bytes=1000)
    assert await payloads.decode(await payloads.encode(Content(bytes(1000), "x/y"), ABOUT), ABOUT)
    with pytest.raises(PayloadError, match="1001 bytes, more than the 1000"):
        await payloads.encode(Content(bytes(1001), "x/y"), ABOUT)
    with pytest.raises(PayloadError, match="2000 bytes, more than the 1000"):
        await payloads.decode(referring(size=2000), ABOUT)
    with pytest.raises(PayloadError, match="more than the 1000"):
        await payloads.decode(await Payloads([Zlib()]).encode(Content(bytes(100_000), "x/y"), ABOUT), ABOUT)
    with pytest.raises(PayloadError, match="more than the 1000"):  # the codec made it larger
        await Payloads([AES], max_bytes=1000).encode(Content(bytes(1000), "x/y"), ABOUT)


async def test_layers_without_end_are_refused():
    class Onion:
        media_type = "x/onion"

        def decode(self, content, about, *, max_bytes):
            return content

    with pytest.raises(PayloadError, match="more than 8 times over"):
        await Payloads([Onion()]).decode(Content(b"", "x/onion"), ABOUT)


def test_codecs_must_differ_and_sizes_have_a_range():
    with pytest.raises(ValueError, match="same media type"):
        Payloads([Zlib(), Zlib(level=1)])
    for wrong in ({"blob_above_bytes": -1}, {"max_bytes": 0}):
        with pytest.raises(ValueError, match="blob_above_bytes is 0 or more"):
            Payloads(**wrong)


async def test_one_pipeline_serves_several_loops(memory):
    payloads = Payloads([Zlib()], blobs=memory, blob_above_bytes=0)
    travelling = await payloads.encode(LARGE, ABOUT)
    assert await asyncio.to_thread(lambda: asyncio.run(payloads.decode(travelling, ABOUT))) == LARGE
