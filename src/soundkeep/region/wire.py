"""Objects and buckets as clients see them: the JSON of contract §2, members in that order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from soundkeep.foundation.clock import iso_seconds
from soundkeep.region.model import Bucket, State, StoredObject

CHECKSUM_TYPE = "MD5"


def document(stored: StoredObject) -> str:
    """The object's JSON text, kept beside its row and sent as it is."""
    return msgspec.json.encode(
        {
            "id": stored.id,
            "type": stored.type,
            "mimeType": stored.mime_type,
            "objectName": stored.name,
            "checksumType": CHECKSUM_TYPE,
            "checksum": stored.digests.md5,
            "customerId": stored.customer,
            "userId": stored.user_id,
            "storedBytes": stored.digests.size,
            "createdTime": iso_seconds(stored.created_ms),
            "updatedTime": iso_seconds(stored.updated_ms),
            "objectState": stored.state,
            "bucketId": stored.bucket_id,
            "tags": _tags(stored.tags),
            "shared": stored.shared,
        }
    ).decode()


def moved(document: str, state: State, at_ms: int) -> str:
    """The JSON text of an object that came into another state."""
    body = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    body["objectState"] = msgspec.Raw(msgspec.json.encode(state))
    body["updatedTime"] = msgspec.Raw(msgspec.json.encode(iso_seconds(at_ms)))
    return msgspec.json.encode(body).decode()


def bucket_document(bucket: Bucket, documents: Sequence[str] | None = None) -> str:
    """A bucket's JSON text; with `documents`, those objects are its `objectList`."""
    body: dict[str, object] = {
        "bucketId": bucket.id,
        "customerId": bucket.customer,
        "userId": bucket.user_id,
        "name": bucket.name,
        "createdTime": iso_seconds(bucket.created_ms),
        "updatedTime": iso_seconds(bucket.updated_ms),
        "tags": _tags(bucket.tags),
    }
    if documents is not None:
        body["objectList"] = [msgspec.Raw(each.encode()) for each in documents]
    return msgspec.json.encode(body).decode()


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]
