"""Bytes in and bytes out: one-shot uploads and what is needed for a download. Contract §2."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from soundkeep.foundation import audit, metrics
from soundkeep.foundation.audit import Deed, Event
from soundkeep.foundation.claims import Claims, Reach
from soundkeep.foundation.errors import (
    BadInput,
    Gone,
    IllegalMove,
    Incomplete,
    NotAllowed,
    NotFound,
    SoundkeepError,
    TooLarge,
)
from soundkeep.region import store
from soundkeep.region.blobs import Incoming
from soundkeep.region.model import (
    BUCKET_ID,
    GONE,
    NOTHING,
    SITE_TAG,
    TAG_KEY,
    TYPE,
    Arrival,
    Digests,
    Readable,
    State,
    StoredObject,
)
from soundkeep.region.plane import Region, must_live_here, new_object_id

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn the direction of text, and halves of characters."""

_MAX_NAME = 1024
_MAX_MIME = 255
_MAX_USER = 64
_MAX_TAGS = 256
_MAX_TAG_VALUE = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a client says about an object to be; empty members are filled in."""

    type: str
    name: str = ""
    mime_type: str = ""
    user_id: str = ""
    bucket_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    shared: bool = False
    checksum: str = ""


class Upload:
    """One upload under way: feed it with `write`, then `finish` with what is known about it.

    Use it as an async context manager: whatever ends it early leaves nothing behind.
    """

    def __init__(self, region: Region, claims: Claims, *, expected: int = 0) -> None:
        must_live_here(region, claims)
        self._region = region
        self._claims = claims
        self._id = new_object_id(region)
        self._incoming: Incoming | None = region.blobs.incoming(self._id, expected=expected)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._incoming is not None:
            await self._incoming.abandon()

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes; TooLarge past the region's limit."""
        assert self._incoming is not None
        if self._incoming.size + len(chunk) > self._region.max_upload_bytes:
            raise TooLarge(
                f"A recording may have {self._region.max_upload_bytes} bytes at most.",
                field="content",
            )
        await self._incoming.write(chunk)

    async def finish(self, wanted: Wanted, *, created_ms: int | None = None) -> StoredObject:
        """Keep the object: when this returns it is on disk, in the catalogue and in the audit."""
        assert self._incoming is not None
        check(self._claims, wanted)
        await _may_join(self._region, self._claims, wanted.bucket_id)
        digests = await self._incoming.close()
        if wanted.checksum and wanted.checksum.lower() != digests.md5:
            raise Incomplete(
                f"The content's MD5 is {digests.md5}, not the checksum that was declared: "
                "nothing was kept, send it again.",
                field="checksum",
            )
        stored = self._stored(wanted, digests, created_ms or self._region.clock())
        self._incoming = None  # from here on, `_keep` answers for the bytes
        await _keep(self._region, Arrival(stored, self._claims.client, self._claims.owner))
        metrics.count_upload(self._region.name, digests.size)
        return stored

    def _stored(self, wanted: Wanted, digests: Digests, at_ms: int) -> StoredObject:
        return StoredObject(
            id=self._id,
            customer=self._claims.customer,
            type=wanted.type,
            mime_type=wanted.mime_type or "application/octet-stream",
            name=wanted.name or self._id,
            user_id=wanted.user_id or self._claims.owner,
            created_ms=at_ms,
            updated_ms=at_ms,
            state=State.AVAILABLE,
            bucket_id=wanted.bucket_id or self._id,
            tags=dict(wanted.tags),
            shared=wanted.shared,
            blob=self._id,
            digests=digests,
        )


async def _keep(region: Region, arrival: Arrival) -> None:
    """Publish an object whose bytes are synced, with its row and its audit record.

    Objects that arrive together share the disk's syncs and one transaction. When this returns,
    the object survives a crash; when it raises, nothing of it is left.
    """

    async def work(batch: Sequence[Arrival]) -> None:
        await _commit(region, batch)

    await region.arrivals.add(arrival, work)


def check(claims: Claims, wanted: Wanted) -> None:
    """BadInput for metadata that cannot be kept, NotAllowed for an object out of one's scope."""
    if not TYPE.fullmatch(wanted.type):
        raise BadInput(
            "Give the object a type like callrecording: letters, digits, - and _, a letter first.",
            field="metadata.type",
        )
    if wanted.bucket_id and not BUCKET_ID.fullmatch(wanted.bucket_id):
        raise BadInput(
            "A bucket id has 1 to 64 letters, digits, dots, hyphens and underscores.",
            field="metadata.bucketId",
        )
    _check_text("metadata.objectName", wanted.name, _MAX_NAME)
    _check_text("metadata.mimeType", wanted.mime_type, _MAX_MIME)
    _check_text("metadata.userId", wanted.user_id, _MAX_USER)
    if not wanted.mime_type.isascii():
        raise BadInput("A MIME type is ASCII, like audio/mpeg.", field="metadata.mimeType")
    if len(wanted.tags) > _MAX_TAGS:
        raise BadInput(f"An object has {_MAX_TAGS} tags at most.", field="metadata.tags")
    for key, value in wanted.tags.items():
        _check_tag(key, value)
    site, user = wanted.tags.get(SITE_TAG, ""), wanted.user_id or claims.owner
    if not claims.reach.covers(site=site, user=user):
        raise NotAllowed(
            "The object would lie outside of this key's scope: give it a branchId or userId "
            "within it."
        )


async def _may_join(region: Region, claims: Claims, bucket_id: str) -> None:
    """NotAllowed for a bucket that is there and holds nothing within the key's scope.

    Adding to it would bring it into scope, and show whose it is.
    """
    if not bucket_id or claims.reach.company:
        return
    key = {"customer": claims.customer, "bucket_id": bucket_id}
    if await store.bucket_by_id(region.db, **key, reach=Reach(company=True)) is None:
        return
    if await store.bucket_by_id(region.db, **key, reach=claims.reach) is None:
        raise NotAllowed("This bucket lies outside of the key's scope: choose another bucketId.")


async def readable(region: Region, claims: Claims, object_id: str) -> Readable:
    """An object whose bytes may be sent now; otherwise the reason why not."""
    must_live_here(region, claims)
    found = await store.readable_by_id(
        region.db, object_id, customer=claims.customer, reach=claims.reach
    )
    if found is None:
        raise NotFound(NOTHING)
    if found.state in GONE:
        raise Gone("The object was deleted.", state=found.state)
    if found.state is State.ARCHIVED:
        raise IllegalMove(
            f"The object is ARCHIVED: restore it first, POST .../objects/{object_id}/restore.",
            state=found.state,
        )
    if found.state is not State.AVAILABLE:
        raise IllegalMove(f"The object is {found.state}, not AVAILABLE.", state=found.state)
    return found


def at_hand(region: Region, found: Readable) -> bytes | None:
    """All bytes of a small object, where that takes no waiting for a disk."""
    return region.blobs.at_hand(found.blob, found.size)


async def slices(region: Region, found: Readable, start: int, end: int) -> AsyncIterator[bytes]:
    """The bytes of a readable object from `start` up to and without `end`."""
    return await region.blobs.read(found.blob, start, end)


def file_of(region: Region, found: Readable) -> str | None:
    """The path of the whole object, where it is a file: for a server that sends files itself."""
    return region.blobs.file(found.blob, found.size)


def _check_text(name: str, value: str, longest: int) -> None:
    if len(value) > longest or _CONTROL.search(value):
        raise BadInput(f"Use at most {longest} characters, and no control characters.", field=name)


def _check_tag(key: str, value: str) -> None:
    if not TAG_KEY.fullmatch(key):
        raise BadInput(
            f"{key[:64]!r} is no tag key: letters, digits, _ . and -, a letter or _ first.",
            field="metadata.tags",
        )
    if len(value) > _MAX_TAG_VALUE or "\0" in value:
        raise BadInput(
            f"The tag {key} may have {_MAX_TAG_VALUE} characters at most, and no NUL.",
            field="metadata.tags",
        )


async def _commit(region: Region, batch: Sequence[Arrival]) -> None:
    objects = [arrival.stored for arrival in batch]
    keys = [stored.blob for stored in objects]
    try:
        await region.blobs.publish(keys)
        async with region.db.transaction() as tx:
            await store.add_objects(tx, objects)
            deeds = [_deed(region, arrival) for arrival in batch]
            await audit.append(tx, deeds, entropy=region.entropy)
    except Exception:
        if len(batch) > 1:
            raise  # each is tried again alone, with its bytes as they are
        # A commit may have happened although its answer was lost: only what has no row goes.
        # Where even that cannot be found out, `incoming/` tells the next sweep.
        with suppress(SoundkeepError):
            known = await store.known_ids(region.db, [stored.id for stored in objects])
            await region.blobs.discard(each.blob for each in objects if each.id not in known)
        raise
    with suppress(SoundkeepError):  # the objects are kept; the sweep tidies up what this could not
        await region.blobs.settle(keys)


def _deed(region: Region, arrival: Arrival) -> Deed:
    """What the audit says: who did it is the key's owner, whoever the object is said to be of."""
    stored = arrival.stored
    return Deed(
        customer=stored.customer,
        at_ms=region.clock(),
        event=Event.CREATE,
        service="storage",
        entity_type="object",
        entity_key=stored.id,
        display_name=stored.name,
        user_id=arrival.owner,
        new={
            "type": stored.type,
            "storedBytes": stored.digests.size,
            "userId": stored.user_id,
            "client": arrival.client,
        },
    )
