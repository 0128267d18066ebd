"""Blob stores to test: a folder, and an S3-compatible server where it can be installed."""

import importlib.util
import sys

import pytest

from agent_node.payloads import FileBlobStore, S3BlobStore
from tests.support.ports import free_port

BUCKET = "muster-test"


@pytest.fixture
def folder_store(tmp_path):
    return FileBlobStore(tmp_path / "blobs")


@pytest.fixture
async def s3_options(children):
    """What connects to a server of our own with one empty bucket."""
    for name in ("obstore", "moto", "flask"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    port = free_port()
    server = children.start([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], name="s3")
    await server.wait_for_port(port, within_s=60)
    return {
        "endpoint": f"http://127.0.0.1:{port}",
        "region": "us-east-1",
        "access_key_id": "id",
        "secret_access_key": "key",
        "client_options": {"allow_http": True},
    }


@pytest.fixture
async def s3_store(s3_options):
    import aiohttp

    async with aiohttp.ClientSession() as session, session.put(f"{s3_options['endpoint']}/{BUCKET}") as response:
        assert response.status == 200
    return S3BlobStore(BUCKET, prefix="tasks/", **s3_options)


@pytest.fixture(params=["folder", "s3"])
def store(request):
    return request.getfixturevalue(f"{request.param}_store")
