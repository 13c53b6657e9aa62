"""Bytes in: uploads, from their first byte until they are kept. Contract §2, "Objects"."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Self

import msgspec

from soundkeep.foundation import audit, metrics
from soundkeep.foundation.audit import Deed, Event
from soundkeep.foundation.claims import Claims, Reach
from soundkeep.foundation.database import Connection
from soundkeep.foundation.errors import (
    BadInput,
    Conflict,
    Incomplete,
    KeyReused,
    NotAllowed,
    SoundkeepError,
    StorageFull,
    TooLarge,
    Unavailable,
)
from soundkeep.region import ledger, store
from soundkeep.region.blobs import Incoming
from soundkeep.region.ledger import Usage
from soundkeep.region.model import (
    BUCKET_ID,
    SITE_TAG,
    TAG_KEY,
    TYPE,
    Arrival,
    Digests,
    Quota,
    State,
    StoredObject,
)
from soundkeep.region.plane import Region, must_live_here, new_object_id
from soundkeep.region.wire import document

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn the direction of text, and halves of characters."""

_MAX_NAME = 1024
_MAX_MIME = 255
_MAX_USER = 64
_MAX_TAGS = 256
_MAX_TAG_VALUE = 64 * 1024
_SOURCE_TAG = "sourceId"
"""The tag that tells what an object was made of: the same again is no second object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a client says about an object to be; empty members are filled in.

    `checksum` (MD5) and `sha256`, hex, are what its bytes must have; `repeat_key` makes sure that
    the same upload, sent again, makes no second object.
    """

    type: str
    name: str = ""
    mime_type: str = ""
    user_id: str = ""
    bucket_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    shared: bool = False
    checksum: str = ""
    sha256: str = ""
    repeat_key: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of an upload: an object's id and JSON; not `fresh` where it was there before."""

    id: str
    document: str
    fresh: bool


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
        if self._incoming.size + len(chunk) > self._region.limits.max_upload_bytes:
            raise TooLarge(
                f"A recording may have {self._region.limits.max_upload_bytes} bytes at most.",
                field="content",
            )
        await self._incoming.write(chunk)

    async def finish(self, wanted: Wanted, *, created_ms: int | None = None) -> Kept:
        """Keep the object: when this returns it is on disk, in the catalogue and in the audit."""
        assert self._incoming is not None
        check(self._claims, wanted)
        await may_join(self._region, self._claims, wanted.bucket_id)
        digests = await self._incoming.close()
        must_be(digests, wanted)
        self._incoming = None  # from here on, `keep` answers for the bytes
        return await keep(
            self._region, self._claims, wanted, digests, object_id=self._id, created_ms=created_ms
        )


async def keep(
    region: Region,
    claims: Claims,
    wanted: Wanted,
    digests: Digests,
    *,
    object_id: str,
    created_ms: int | None = None,
) -> Kept:
    """Keep closed incoming bytes of this id, with their object's row and its audit record.

    Objects that arrive together share the disk's syncs and one transaction. When this returns,
    the object survives a crash; when it raises, nothing of it is left.
    """
    at_ms = created_ms or region.clock()
    stored = StoredObject(
        id=object_id,
        customer=claims.customer,
        type=wanted.type,
        mime_type=wanted.mime_type or "application/octet-stream",
        name=wanted.name or object_id,
        user_id=wanted.user_id or claims.owner,
        created_ms=at_ms,
        updated_ms=at_ms,
        state=State.AVAILABLE,
        bucket_id=wanted.bucket_id or object_id,
        tags=dict(wanted.tags),
        shared=wanted.shared,
        blob=object_id,
        digests=digests,
    )
    fingerprint = _fingerprint(wanted, stored)
    name = _repeat_name(claims, wanted, fingerprint)
    arrival = Arrival(stored, claims.client, claims.owner, name, fingerprint)

    async def work(batch: Sequence[Arrival]) -> None:
        await _commit(region, batch)

    try:
        await region.arrivals.add(arrival, work)
    except BaseException as error:  # also where the caller left: its fate is decided
        refused = isinstance(error, SoundkeepError) and not isinstance(error, Unavailable)
        await _give_up(region, object_id, refused=refused)
        raise
    if name:
        first = await ledger.repeated(region.db, name, customer=claims.customer)
        if first is not None and first[0] != object_id:
            return await _first(region, claims, first, fingerprint)
    metrics.count_upload(region.name, digests.size)
    return Kept(object_id, document(stored), fresh=True)


async def _first(region: Region, claims: Claims, first: tuple[str, str], fingerprint: str) -> Kept:
    """The object that the same upload made before; KeyReused where it was another upload."""
    object_id, made_of = first
    if made_of != fingerprint:
        raise KeyReused(
            "This Idempotency-Key belongs to another upload, of other bytes or metadata: choose a "
            "new one.",
            field="Idempotency-Key",
        )
    found = await store.document_by_id(
        region.db, object_id, customer=claims.customer, reach=claims.reach
    )
    if found is None:
        raise Conflict("This upload was made before, and lies outside of this key's scope now.")
    return Kept(object_id, found, fresh=False)


def _repeat_name(claims: Claims, wanted: Wanted, fingerprint: str) -> str:
    """Under which name this upload can be told from others; empty where it has none."""
    if wanted.repeat_key:
        return f"key:{claims.client}:{wanted.repeat_key}"
    return f"source:{fingerprint}" if wanted.tags.get(_SOURCE_TAG) else ""


def _fingerprint(wanted: Wanted, stored: StoredObject) -> str:
    """What tells one upload from another: what the client said, whose it is, and the bytes."""
    said = (
        wanted.type,
        wanted.name,
        wanted.mime_type,
        stored.user_id,
        wanted.bucket_id,
        sorted(wanted.tags.items()),
        wanted.shared,
        stored.digests.sha256,
    )
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def must_be(digests: Digests, wanted: Wanted) -> None:
    """Incomplete where the bytes are not those that the client declared."""
    for name, declared, found, field_name in (
        ("MD5", wanted.checksum, digests.md5, "checksum"),
        ("SHA-256", wanted.sha256, digests.sha256, "Repr-Digest"),
    ):
        if declared and declared.lower() != found:
            raise Incomplete(
                f"The content's {name} is {found}, not the one that was declared: nothing was "
                "kept, send it again.",
                field=field_name,
            )


async def must_have_room(region: Region, claims: Claims, size: int) -> None:
    """StorageFull where the customer's quota is used up, or has no room for so many bytes more."""
    if region.limits.quotas.of(claims.customer) == Quota():
        return
    used = await ledger.usage(region.db, customer=claims.customer)
    _within_quota(region, claims.customer, Usage(used.objects + 1, used.bytes + size), size)


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


async def may_join(region: Region, claims: Claims, bucket_id: str) -> None:
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
    keys = [arrival.stored.blob for arrival in batch]
    await _retire_lost(region, [arrival.stored for arrival in batch])
    async with region.db.transaction() as tx:
        used = await _write(region, tx, batch)
    region.background(_tidy(region, keys, used))  # nobody has to wait for it


async def _give_up(region: Region, key: str, *, refused: bool) -> None:
    """Keep nothing of what was not committed.

    Unless it was refused, a commit may happen although its answer was lost: only what nobody holds
    in the end goes. Where that cannot be found out, the store's leftovers tell the next sweep.
    """
    with suppress(SoundkeepError):
        if not refused and region.db.engine == "postgresql":  # SQLite told what became of it
            async with region.db.transaction() as tx:
                await ledger.wait_for_commits(tx)
        known = await ledger.known_keys(region.db, [key])
        await (region.blobs.settle([key]) if key in known else region.blobs.discard([key]))


async def _tidy(region: Region, keys: Sequence[str], used: set[str]) -> None:
    """The objects are kept: what this cannot do, the next sweep does."""
    with suppress(SoundkeepError):
        await region.blobs.settle([key for key in keys if key in used])
        if not used.issuperset(keys):
            await region.blobs.discard(key for key in keys if key not in used)


async def _retire_lost(region: Region, objects: Sequence[StoredObject]) -> None:
    """Let nobody share a blob that is not there any more: the bytes that just came are better."""
    shared = await ledger.shared_blobs(region.db, objects)
    for (customer, _), (key, size) in sorted(shared.items()):
        if await region.blobs.size(key) != size:
            async with region.db.transaction() as tx:
                await ledger.retire_blob(tx, key, customer=customer)


async def _write(region: Region, tx: Connection, batch: Sequence[Arrival]) -> set[str]:
    """Rows, references, usage and audit of what arrives for the first time: the blobs it holds."""
    owners = await ledger.claim_names(tx, batch)
    fresh = [each for each in batch if owners.get(each.stored.id, each.stored.id) == each.stored.id]
    if not fresh:
        return set()
    keys = await ledger.share_blobs(tx, [each.stored for each in fresh])
    objects = [replace(each.stored, blob=keys[each.stored.id]) for each in fresh]
    await store.add_objects(tx, objects)
    count, size = Counter[str](), Counter[str]()
    for each in objects:
        count[each.customer] += 1
        size[each.customer] += each.digests.size
    for customer in sorted(count):
        more = Usage(count[customer], size[customer])
        found = await ledger.add_usage(tx, more, customer=customer)
        _within_quota(region, customer, found, more.bytes)
    await audit.append(tx, [_deed(region, each) for each in fresh], entropy=region.entropy)
    return set(keys.values())


def _within_quota(region: Region, customer: str, found: Usage, more: int) -> None:
    quota = region.limits.quotas.of(customer)
    if found.objects > (quota.objects or found.objects) or found.bytes > (
        quota.bytes or found.bytes
    ):
        allowed = [
            f"{most:,} {what}"
            for most, what in ((quota.objects, "objects"), (quota.bytes, "bytes"))
            if most
        ]
        raise StorageFull(
            f"Your company's quota in {region.name} is {' and '.join(allowed)}; with these "
            f"{more:,} bytes it would hold {found.objects:,} objects of {found.bytes:,} bytes: "
            "nothing was kept. Delete something, or ask the operator for more.",
            quotaObjects=quota.objects,
            quotaBytes=quota.bytes,
        )


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
