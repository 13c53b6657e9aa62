"""Requests to the bucket of an S3 store: bounded in time, tried again, their failures told in ours.

A short request is given up when nothing comes for some seconds. One with a body may take long on a
slow line: it is given up when short ones are not answered meanwhile.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import S3Store

from soundkeep.foundation.clock import SECOND
from soundkeep.foundation.errors import SoundkeepError, StorageFull, Unavailable
from soundkeep.region.blobs import Bucket, lost

if TYPE_CHECKING:
    from obstore import Attributes, GetOptions, ObjectMeta, PutResult
    from obstore.store import S3Config, S3Credential

T = TypeVar("T")

ERRORS = (BaseError, OSError)
"""What obstore raises (a missing object is a FileNotFoundError), and what a timeout does."""

_TRIES = 4
_PAUSE_SECONDS = 0.2
_PARTS_AT_ONCE = 2
_LIST_SIZE = 1000
_DELETE_SIZE = 100

_OPAQUE: Attributes = {
    "Content-Type": "application/octet-stream",
    "Content-Disposition": "attachment",
}
"""For links of the store's own: left to guess, it would let a browser show what is sent as HTML."""

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})
_REFUSED = frozenset({"401", "403"})
_OUT_OF_RANGE = "416"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds after which a store that is gone is given up: all in all, about fifteen."""

    connect: float = 3
    silent: float = 4
    """Nothing came; of a long request: time to see whether the store is alive."""
    retry: float = 6
    """A failed request is not tried again after so long."""
    short: float = 12
    """A request without a body is given up."""
    long: float = 300
    """A request with a body is, however alive the store is."""
    later: float = 2
    """A caller is not kept waiting any longer for what is to be removed."""


class Requests:
    """Requests to one bucket, by path; Unavailable or StorageFull where they fail."""

    def __init__(self, bucket: Bucket, *, probe: str, patience: Patience) -> None:
        """Whether the store is alive is seen by asking for `probe`, which need not exist."""
        self.patience = patience
        self._probe = probe
        self._quick = _connected(bucket, patience, silent_seconds=patience.silent)
        self._patient = _connected(bucket, patience, silent_seconds=patience.long)
        self._later = set[asyncio.Future[None]]()

    async def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it done, though not while a caller waits for long."""
        running = asyncio.ensure_future(work)
        self._later.add(running)
        running.add_done_callback(self._later.discard)
        await asyncio.wait({running}, timeout=self.patience.later)

    async def close(self) -> None:
        """Give up what was for later."""
        for each in list(self._later):
            each.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)

    async def link(self, path: str, *, seconds: int) -> str:
        """A URL that gives an object for so long."""
        expires = timedelta(seconds=seconds)
        return await self.asked("GetObject", obstore.sign_async(self._quick, "GET", path, expires))

    async def asked(self, action: str, request: Awaitable[T]) -> T:
        """The answer to a short request; Unavailable or StorageFull where there is none."""
        try:
            async with asyncio.timeout(self.patience.short):
                return await request
        except ERRORS as error:
            raise _trouble(action, error) from None

    async def told(self, action: str, running: asyncio.Future[T]) -> T:
        """What a request gives that may take its time, as long as the store is alive."""
        try:
            await self.while_alive(running)
            return running.result()
        except ERRORS as error:
            raise _trouble(action, error) from None

    async def while_alive(self, *running: asyncio.Future[Any]) -> None:
        """Wait until one of them is done; Unavailable where the store stops to answer meanwhile."""
        while True:
            done, _ = await asyncio.wait(
                running, timeout=self.patience.silent, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                return
            await self.size(self._probe)

    async def put(self, path: str, chunks: Sequence[bytes | memoryview]) -> PutResult:
        """Make an object with one request."""
        putting = obstore.put_async(
            self._patient, path, iter(chunks), attributes=_OPAQUE, use_multipart=False
        )
        running = asyncio.ensure_future(putting)
        try:
            return await self.told("PutObject", running)
        finally:
            running.cancel()

    async def put_parts(
        self, path: str, chunks: AsyncIterator[bytes], *, part_size: int
    ) -> PutResult:
        """Make an object of parts; where `chunks` raises, they are removed."""
        return await obstore.put_async(
            self._patient,
            path,
            chunks,
            attributes=_OPAQUE,
            use_multipart=True,
            chunk_size=part_size,
            max_concurrency=_PARTS_AT_ONCE,
        )

    async def get(
        self, path: str, start: int, end: int, *, etag: str | None
    ) -> tuple[ObjectMeta, memoryview]:
        """A range of an object, if it has this ETag still; whatever obstore raises."""
        wanted: GetOptions = {"range": (start, end)}
        if etag is not None:
            wanted["if_match"] = etag
        answer = await obstore.get_async(self._quick, path, options=wanted)
        return answer.meta, memoryview(await answer.bytes_async())

    async def size(self, path: str) -> int | None:
        """How many bytes an object has; None where there is none."""
        try:
            async with asyncio.timeout(self.patience.short):
                return (await obstore.head_async(self._quick, path))["size"]
        except FileNotFoundError:
            return None
        except ERRORS as error:
            raise _trouble("GetObject", error) from None

    async def paths(
        self, folder: str, *, after: str | None = None, until: int | None = None
    ) -> list[str]:
        """Paths below a folder, from the one after `after` on, of objects older than `until` ms."""
        found = list[str]()
        listing = obstore.list(self._quick, folder, offset=after, chunk_size=_LIST_SIZE)
        try:
            async with asyncio.timeout(self.patience.short) as limit:
                async for part in listing:
                    found += (
                        meta["path"]
                        for meta in part
                        if until is None or meta["last_modified"].timestamp() * SECOND < until
                    )
                    limit.reschedule(asyncio.get_running_loop().time() + self.patience.short)
        except ERRORS as error:
            raise _trouble("ListBucket", error) from None
        return found

    async def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; those that are not there are fine."""
        for start in range(0, len(paths), _DELETE_SIZE):
            part = paths[start : start + _DELETE_SIZE]
            await self.asked("DeleteObject", obstore.delete_async(self._quick, part))


class Ranges:
    """Ranges of one object, all of one version, tried a few times each."""

    def __init__(self, requests: Requests, key: str, path: str, least: int) -> None:
        self._requests = requests
        self._key = key
        self._path = path
        self._least = least
        self._size: int | None = None
        self._etag: str | None = None

    async def __call__(self, start: int, end: int) -> memoryview:
        """The bytes of a range; Unavailable where they are not there, or not in time."""
        clock = asyncio.get_running_loop().time
        give_up, tries = clock() + self._requests.patience.silent, _TRIES
        while True:
            tries -= 1
            getting = self._requests.get(self._path, start, end, etag=self._etag)
            try:
                meta, found = await self._waited(getting)
                break
            except (FileNotFoundError, PreconditionError):
                raise lost(self._key) from None
            except ERRORS as error:
                status = _status(error)
                if status == _OUT_OF_RANGE:
                    raise lost(self._key) from None
                if status in _REFUSED or not tries or clock() > give_up:
                    raise _trouble("GetObject", error) from None
            await asyncio.sleep(_PAUSE_SECONDS)
        if self._size is None:
            self._size, self._etag = meta["size"], _strong(meta["e_tag"])
        if meta["size"] != self._size or self._size < self._least or len(found) != end - start:
            raise lost(self._key)
        return found

    async def _waited(self, getting: Awaitable[T]) -> T:
        running = asyncio.ensure_future(getting)
        try:
            await self._requests.while_alive(running)
            return running.result()
        finally:
            running.cancel()


def _connected(bucket: Bucket, patience: Patience, *, silent_seconds: float) -> S3Store:
    """Two stores differ in their patience: a PUT says nothing until its body is there."""
    endpoint = bucket.endpoint or f"https://s3.{bucket.region}.amazonaws.com"
    if bucket.virtual:
        endpoint = endpoint.replace("://", f"://{bucket.name}.", 1)
    config: S3Config = {
        "aws_endpoint_url_s3": endpoint,
        "region": bucket.region,
        "virtual_hosted_style_request": bucket.virtual,
        "skip_signature": False,
        "unsigned_payload": False,
    }
    if bucket.checksums:
        config["checksum_algorithm"] = "SHA256"
    return S3Store(
        bucket.name,
        config=config,
        credential_provider=partial(_keys, bucket) if bucket.access_key_id else None,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=patience.connect),
            "read_timeout": timedelta(seconds=silent_seconds),
            "timeout": timedelta(seconds=patience.long),
        },
        retry_config={
            "max_retries": 20,
            "retry_timeout": timedelta(seconds=patience.retry),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=1),
                "base": 2,
            },
        },
    )


def _keys(bucket: Bucket) -> S3Credential:
    """The keys of the settings alone: to other ones, the environment would add its token."""
    return {
        "access_key_id": bucket.access_key_id,
        "secret_access_key": bucket.secret_access_key,
        "expires_at": None,
    }


def _trouble(action: str, error: Exception) -> SoundkeepError:
    """What to raise: without obstore's own message, in which keys may be."""
    status, code = _status(error), _CODE.search(str(error))
    what = code[1] if code else status
    if status == "507" or what in _FULL:
        return StorageFull("The store of recordings is full: nothing of this recording was kept.")
    if status in _REFUSED:
        return Unavailable(
            f"The store of recordings refuses {action} ({what}): the operator should look at the "
            "keys in the settings, and at what they allow."
        )
    if what == "NoSuchBucket":
        return Unavailable(
            "The bucket of the recordings does not exist: the operator should look at `blobs` in "
            "the settings."
        )
    return Unavailable(f"The store of recordings does not answer ({action}: {what or 'nothing'}).")


def _status(error: Exception) -> str:
    found = _STATUS.search(str(error))
    return found[1] if found else ""


def _strong(etag: str | None) -> str | None:
    """An ETag that If-Match can compare (RFC 9110 §13.1.1)."""
    return None if etag is None or etag.startswith("W/") else etag
