"""An object as clients see it: the JSON of contract §2, "Objects", members in that order."""

from __future__ import annotations

import msgspec

from soundkeep.foundation.clock import iso_seconds
from soundkeep.region.model import StoredObject

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
            "tags": [{"key": key, "value": value} for key, value in stored.tags.items()],
            "shared": stored.shared,
        }
    ).decode()
