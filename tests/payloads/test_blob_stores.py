"""One suite for every blob store, and what only the folder has."""

import hashlib
import os
import pickle

import pytest

from agent_node import BlobGoneError, PayloadError
from agent_node.payloads import FileBlobStore, S3BlobStore
from agent_node.payloads.s3 import S3BlobStore as Store

DATA = b"one blob"
KEY = hashlib.sha256(DATA).hexdigest()


async def test_a_blob_comes_back_whole_and_putting_it_again_changes_nothing(store):
    url = await store.put(KEY, DATA)
    assert KEY in url
    assert await store.get(url, max_bytes=len(DATA)) == DATA
    assert await store.put(KEY, DATA) == url
    assert await store.get(url, max_bytes=100) == DATA


async def test_a_blob_that_is_longer_than_it_should_be_is_not_read_to_its_end(store):
    url = await store.put(KEY, b"x" * 1000)
    assert len(await store.get(url, max_bytes=10)) <= 11


async def test_a_deleted_blob_is_gone_and_deleting_it_again_is_nothing(store):
    url = await store.put(KEY, DATA)
    await store.delete(url)
    await store.delete(url)
    with pytest.raises(BlobGoneError, match=f"blob {url} is gone"):
        await store.get(url, max_bytes=10)


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "{prefix}../../etc/passwd", "{prefix}{key}/..", "s3://other/tasks/{key}", "{prefix}", "{key}"]
)
async def test_urls_of_elsewhere_are_refused(store, url):
    prefix = (await store.put(KEY, DATA)).removesuffix(KEY)
    for use in (store.get(url.format(prefix=prefix, key=KEY), max_bytes=10), store.delete(url.format(prefix=prefix, key=KEY))):
        with pytest.raises(PayloadError, match="is no blob of this store"):
            await use


async def test_a_store_works_in_a_child_process_too(store):
    url = await store.put(KEY, DATA)
    assert await pickle.loads(pickle.dumps(store)).get(url, max_bytes=100) == DATA


# the folder


def _files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


async def test_a_blob_that_was_not_written_whole_is_not_there(tmp_path, monkeypatch):
    store = FileBlobStore(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        await store.put(KEY, DATA)
    assert _files(tmp_path) == []


async def test_what_was_cut_short_is_written_again(tmp_path):
    store = FileBlobStore(tmp_path)
    url = await store.put(KEY, DATA)
    (tmp_path / KEY[:2] / KEY).write_bytes(DATA[:3])
    assert await store.get(await store.put(KEY, DATA), max_bytes=100) == DATA
    assert url.endswith(KEY)


async def test_a_sweep_takes_what_is_old_and_what_crashed_writers_left(tmp_path):
    store = FileBlobStore(tmp_path)
    other = hashlib.sha256(b"other").hexdigest()
    for key in (KEY, other):
        await store.put(key, DATA)
    left = tmp_path / KEY[:2] / "x.unfinished"
    left.touch()
    for path in (tmp_path / KEY[:2] / KEY, tmp_path / other[:2] / other, left):
        os.utime(path, (1_000, 1_000))
    await store.put(other, DATA)  # young again
    assert store.sweep(older_than_s=3600) == 2
    assert _files(tmp_path) == [other]
    assert store.sweep(older_than_s=-60) == 1


async def test_a_folder_mounted_elsewhere_has_the_same_urls(tmp_path):
    url = await FileBlobStore(tmp_path / "here").put(KEY, DATA)
    (tmp_path / "here").rename(tmp_path / "there")
    assert await FileBlobStore(tmp_path / "there").get(url, max_bytes=100) == DATA


# S3


async def test_a_server_that_is_not_there_is_no_missing_blob():
    pytest.importorskip("obstore")
    store = S3BlobStore(
        "b",
        endpoint="http://127.0.0.1:9",
        region="x",
        access_key_id="a",
        secret_access_key="never shown",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    assert "never shown" not in repr(store)
    with pytest.raises(Exception, match=r"127\.0\.0\.1") as failed:
        await store.get(f"s3://b/{KEY}", max_bytes=10)
    assert not isinstance(failed.value, PayloadError)


def test_without_its_extra_the_store_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(ModuleNotFoundError, match=r"muster-agents\[s3\]"):
        Store("b")
