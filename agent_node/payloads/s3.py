"""Blobs in S3 and what is compatible with it, through obstore."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agent_node.payloads.blobs import digest_of, gone

if TYPE_CHECKING:
    from obstore.store import S3Store


class S3BlobStore:
    """Blobs as objects of a bucket. Let a lifecycle rule of the bucket delete them by age; see `FileBlobStore.sweep` for which age.

    Args:
        bucket: its name.
        prefix: what the objects' names begin with, such as "muster/"; default "".
        options: everything else that obstore's S3Store takes: `endpoint`, `region`, `access_key_id`, `secret_access_key`,
            `client_options`, `retry_config`. What isn't given comes from the usual AWS variables and from the machine's role.

    Raises:
        ModuleNotFoundError: `muster-agents[s3]` isn't installed.
    """

    def __init__(self, bucket: str, *, prefix: str = "", **options: Any) -> None:
        try:
            import obstore  # noqa: F401 - now rather than at the first blob
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("S3BlobStore needs the extra: pip install 'muster-agents[s3]'", name=error.name) from None
        self._bucket = bucket
        self._prefix = prefix
        self._options = options
        self._connected: S3Store | None = None

    def __repr__(self) -> str:
        return f"S3BlobStore({self._bucket!r}, prefix={self._prefix!r})"

    async def put(self, key: str, data: bytes) -> str:
        await self._store.put_async(self._prefix + key, data)
        return self._url + key

    async def get(self, url: str, *, max_bytes: int) -> bytes:
        key = digest_of(url, self._url)
        try:
            found = await self._store.get_async(self._prefix + key)
            if found.meta["size"] > max_bytes:
                return b""  # not what was stored
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            raise gone(url) from None

    async def delete(self, url: str) -> None:
        key = digest_of(url, self._url)
        with suppress(FileNotFoundError):
            await self._store.delete_async(self._prefix + key)

    @property
    def _url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    @property
    def _store(self) -> "S3Store":
        if self._connected is None:
            from obstore.store import S3Store

            self._connected = S3Store(self._bucket, **self._options)
        return self._connected
