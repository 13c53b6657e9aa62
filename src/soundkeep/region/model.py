"""Objects and buckets: what they are, which states they pass through. Pure. Contract §2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from soundkeep.foundation.claims import Claims

SITE_TAG = "branchId"
"""The tag that names an object's site."""

NOTHING = "There is nothing with this id."
"""What is said of unknown, foreign and out-of-scope ids alike."""

TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
TAG_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
BUCKET_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class State(StrEnum):
    """Where an object is in its life."""

    PENDING = "PENDING"
    AVAILABLE = "AVAILABLE"
    ARCHIVED = "ARCHIVED"
    REVOKED = "REVOKED"
    DELETED = "DELETED"
    FAILED = "FAILED"


GONE = frozenset({State.REVOKED, State.DELETED})
"""States of what somebody deleted."""

REVOCABLE = frozenset({State.AVAILABLE, State.ARCHIVED, State.FAILED})
"""States of what can be deleted."""


@dataclass(frozen=True, slots=True)
class Digests:
    """What was computed over an object's bytes as they arrived; hex, and CRC-32 as a number."""

    size: int
    md5: str
    sha256: str
    crc32: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One object; `blob` is the key of its bytes. Times are milliseconds since the epoch."""

    id: str
    customer: str
    type: str
    mime_type: str
    name: str
    user_id: str
    created_ms: int
    updated_ms: int
    state: State
    bucket_id: str
    tags: Mapping[str, str]
    shared: bool
    blob: str
    digests: Digests

    @property
    def site(self) -> str:
        """The site it belongs to, or an empty text."""
        return self.tags.get(SITE_TAG, "")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A new object, and who brings it: the key, and the user who owns the key.

    `repeat` is the name under which the same upload, sent again, is known; or empty.
    """

    stored: StoredObject
    client: str
    owner: str
    repeat: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a customer may keep in a region; 0 is without limit."""

    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Quotas:
    """The quota of every customer, and of those who have another."""

    usual: Quota = Quota()
    special: Mapping[str, Quota] = field(default_factory=dict)

    def of(self, customer: str) -> Quota:
        """How much this customer may keep."""
        return self.special.get(customer, self.usual)


@dataclass(frozen=True, slots=True)
class Bucket:
    """What groups objects: a call's recording, its transcripts, its summary."""

    customer: str
    id: str
    user_id: str
    name: str
    created_ms: int
    updated_ms: int
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Readable:
    """What it takes to send an object's bytes."""

    id: str
    name: str
    mime_type: str
    state: State
    size: int
    sha256: str
    blob: str
    updated_ms: int


class Stage(StrEnum):
    """Where an upload is in its life."""

    OPEN = "open"
    KEPT = "kept"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumable:
    """An upload: `position` of `size` bytes are safe; `metadata` is the client's own header."""

    id: str
    customer: str
    client: str
    size: int
    position: int
    wanted: str
    metadata: str
    state: Stage
    object_id: str
    expires_ms: int


class Opens(StrEnum):
    """What a presigned link opens."""

    OBJECT = "object"
    ARCHIVE = "archive"


class LinkState(StrEnum):
    """Whether a presigned link opens its object, or why not."""

    ACTIVE = "active"
    EXPIRED = "expired"
    USED = "used"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A presigned link: what it opens, what it stands on, what became of it.

    `target` is the id of the object, or of the bulk download whose archive it opens. `claims` are
    those that it was made with; `network` is a CIDR range, or empty.
    """

    id: str
    opens: Opens
    target: str
    claims: Claims
    created_ms: int
    expires_ms: int
    once: bool
    network: str
    inline: bool
    uses: int = 0
    last_used_ms: int | None = None
    last_address: str = ""
    revoked_ms: int | None = None

    def state(self, now_ms: int) -> LinkState:
        """Where it is in its life."""
        if self.revoked_ms is not None:
            return LinkState.REVOKED
        if self.once and self.uses:
            return LinkState.USED
        return LinkState.EXPIRED if self.expires_ms <= now_ms else LinkState.ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A link that is being used, from where, and for which part of the object's bytes.

    `sent` is whether bytes are sent at all: not for HEAD, nor where the client has them.
    """

    link: Link
    name: str
    at_ms: int
    address: str
    part: str
    sent: bool


class JobState(StrEnum):
    """Where a bulk download is in its life (contract §2, "Bulk")."""

    NOT_STARTED = "NOT_STARTED"
    IN_PROGRESS = "IN_PROGRESS"
    DONE = "DONE"
    PARTIAL_DONE = "PARTIAL_DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A bulk download: whose, its state, and what its archive amounts to.

    `owners` are the site and user of every object in it; None where they are too many to be listed.
    `missing` counts what was asked for and could not be taken. `own_blobs` are keys of bytes that
    were made for the archive.
    """

    id: str
    customer: str
    client: str
    owner: str
    state: JobState
    created_ms: int
    touched_ms: int
    expires_ms: int
    ended_ms: int | None = None
    cleared: bool = False
    members: int = 0
    missing: int = 0
    entries: int = 0
    directory: int = 0
    owners: frozenset[tuple[str, str]] | None = frozenset()
    own_blobs: tuple[str, ...] = ()

    @property
    def zip_name(self) -> str:
        """What clients call it."""
        return f"{self.id}.zip"
