"""`/storage/{region}/v3/uploads`: resumable uploads by the tus protocol, version 1.0.

With the extensions creation, creation-with-upload, expiration, checksum and termination.
https://tus.io/protocols/resumable-upload
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from email.utils import formatdate
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.foundation import web
from soundkeep.foundation.claims import Access, Claims
from soundkeep.foundation.clock import SECOND
from soundkeep.foundation.errors import (
    BadInput,
    NotFound,
    PreconditionFailed,
    SoundkeepError,
    WrongMediaType,
)
from soundkeep.foundation.web import Endpoint
from soundkeep.region import resumable
from soundkeep.region.arrivals import Wanted
from soundkeep.region.http import uploads
from soundkeep.region.http.guard import BASE, Door, by_method
from soundkeep.region.model import Resumable, Stage
from soundkeep.region.plane import Region

_VERSION = "1.0.0"
_EXTENSIONS = "creation,creation-with-upload,expiration,checksum,termination"
_BODY = "application/offset+octet-stream"
_FIELDS = {
    "type": "type",
    "objectName": "objectName",
    "filename": "objectName",
    "mimeType": "mimeType",
    "filetype": "mimeType",
    "userId": "userId",
    "bucketId": "bucketId",
    "checksum": "checksum",
}
"""Keys of Upload-Metadata, and the members of an object's metadata that they give."""

_TAG = "tags."


def routes(door: Door) -> list[Route]:
    """URL, handler, and the access class that a key needs."""

    async def options(request: Request) -> Response:
        region = door.regions.get(request.path_params["region"])
        if region is None:
            raise NotFound("There is no such region here.")
        return Response(status_code=204, headers=_abilities(region))

    one = {
        "HEAD": door.opens(state, Access.EDIT),
        "PATCH": door.opens(add, Access.EDIT),
        "DELETE": door.opens(end, Access.EDIT),
    }
    return [
        by_method(
            f"{BASE}/uploads",
            OPTIONS=_spoken(options),
            POST=_spoken(_versioned(door.opens(create, Access.EDIT))),
        ),
        by_method(
            f"{BASE}/uploads/{{id}}",
            OPTIONS=_spoken(options),
            POST=_spoken(_versioned(_overridden(one))),
            **{method: _spoken(_versioned(endpoint)) for method, endpoint in one.items()},
        ),
    ]


async def create(request: Request, region: Region, claims: Claims) -> Response:
    """Begin an upload, perhaps with its first bytes; 201 with its address."""
    size = _number(request, "Upload-Length")
    header = request.headers.get("upload-metadata", "")
    wanted = replace(_wanted(header), repeat_key=uploads.repeat_key(request))
    upload = await resumable.create(region, claims, wanted, size=size, metadata=header)
    if _is_body(request) or size == 0:
        upload = await resumable.append(
            region, claims, upload.id, web.chunks(request), at=0, checksum=_checksum(request)
        )
    where = f"/storage/{region.name}/v3/uploads/{upload.id}"
    return Response(status_code=201, headers={"location": where, **_progress(region, upload)})


async def state(request: Request, region: Region, claims: Claims) -> Response:
    """How far an upload came."""
    upload = await resumable.find(region, claims, request.path_params["id"])
    headers = {
        "cache-control": "no-store",
        "upload-length": str(upload.size),
        **_progress(region, upload),
    }
    if upload.metadata:
        headers["upload-metadata"] = upload.metadata
    return Response(status_code=200, headers=headers)


async def add(request: Request, region: Region, claims: Claims) -> Response:
    """Take the next bytes; with the last ones, `Content-Location` names the object."""
    if not _is_body(request):
        raise WrongMediaType(f"Send the bytes as {_BODY}.", field="Content-Type")
    upload = await resumable.append(
        region,
        claims,
        request.path_params["id"],
        web.chunks(request),
        at=_number(request, "Upload-Offset"),
        checksum=_checksum(request),
    )
    return Response(status_code=204, headers=_progress(region, upload))


async def end(request: Request, region: Region, claims: Claims) -> Response:
    """End an upload before it is whole."""
    await resumable.terminate(region, claims, request.path_params["id"])
    return Response(status_code=204)


# ---- the protocol's envelope ----------------------------------------------------------------


def _spoken(endpoint: Endpoint) -> Endpoint:
    """Say the protocol's version with every answer, refusals too."""

    async def speaking(request: Request) -> Response:
        try:
            answer = await endpoint(request)
        except SoundkeepError as error:
            answer = web.problem(request, error)
            if isinstance(error, PreconditionFailed):
                answer.headers["tus-version"] = _VERSION
        answer.headers["tus-resumable"] = _VERSION
        return answer

    return speaking


def _versioned(endpoint: Endpoint) -> Endpoint:
    """Refuse what speaks another version."""

    async def checked(request: Request) -> Response:
        if request.headers.get("tus-resumable") != _VERSION:
            raise PreconditionFailed(
                f"Send Tus-Resumable: {_VERSION}: no other version is spoken here."
            )
        return await endpoint(request)

    return checked


def _overridden(endpoints: Mapping[str, Endpoint]) -> Endpoint:
    """Do what X-HTTP-Method-Override says, for clients that can only POST."""

    async def endpoint(request: Request) -> Response:
        method = request.headers.get("x-http-method-override", "").upper()
        if method not in endpoints:
            raise BadInput(
                "Use PATCH, HEAD or DELETE here, or name one in X-HTTP-Method-Override.",
                field="X-HTTP-Method-Override",
            )
        return await endpoints[method](request)

    return endpoint


def _abilities(region: Region) -> dict[str, str]:
    return {
        "tus-version": _VERSION,
        "tus-extension": _EXTENSIONS,
        "tus-max-size": str(region.limits.max_upload_bytes),
        "tus-checksum-algorithm": ",".join(_ALGORITHMS),
    }


def _progress(region: Region, upload: Resumable) -> dict[str, str]:
    headers = {
        "upload-offset": str(upload.position),
        "upload-expires": formatdate(upload.expires_ms // SECOND, usegmt=True),
    }
    if upload.state is Stage.KEPT:
        headers["content-location"] = f"/storage/{region.name}/v3/objects/{upload.object_id}"
    return headers


# ---- what requests say ----------------------------------------------------------------------


def _is_body(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == _BODY


def _number(request: Request, name: str) -> int:
    text = request.headers.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadInput(f"{name} is a whole number of bytes, 0 or more.", field=name)
    return int(text)


def _wanted(header: str) -> Wanted:
    """What Upload-Metadata says: a `metadata` of JSON, or an object's members one by one."""
    given = _decoded(header)
    body: dict[str, object] = {}
    if "metadata" in given:
        raw = given.pop("metadata")
        try:
            body = msgspec.json.decode(raw, type=dict[str, object])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise BadInput(
                'The key `metadata` holds JSON like {"type": "callrecording"}.',
                field="Upload-Metadata",
            ) from None
    tags = body.get("tags", [])
    if not isinstance(tags, list):
        raise BadInput("tags are a list of {key, value}.", field="metadata.tags")
    for key, raw in given.items():
        text = _text(key, raw)
        if key.startswith(_TAG):
            tags.append({"key": key.removeprefix(_TAG), "value": text})
        elif key in _FIELDS:
            body.setdefault(_FIELDS[key], text)
        else:
            raise BadInput(
                f"There is no {key[:64]!r} in an object's metadata; a tag is named tags.KEY.",
                field="Upload-Metadata",
            )
    if tags:
        body["tags"] = tags
    return uploads.parse(msgspec.json.encode(body))


def _decoded(header: str) -> dict[str, bytes]:
    """The pairs of the header: a key, and the base64 of its value, which may be left out."""
    found: dict[str, bytes] = {}
    for pair in header.split(",") if header.strip() else ():
        key, _, value = pair.strip().partition(" ")
        try:
            raw = base64.b64decode(value.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise _no_metadata(key) from None
        if not key or key in found:
            raise _no_metadata(key)
        found[key] = raw
    return found


def _text(key: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _no_metadata(key) from None


def _no_metadata(key: str) -> BadInput:
    return BadInput(
        f"Upload-Metadata has each key once, with the base64 of UTF-8 text: see {key[:64]!r}.",
        field="Upload-Metadata",
    )


# ---- checksums ------------------------------------------------------------------------------


class _Digest(Protocol):
    def update(self, piece: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32:
    """CRC-32 as hashlib's digests are used: four bytes, the highest first."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, piece: bytes, /) -> None:
        self._value = zlib.crc32(piece, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4)


def _new(name: str) -> Callable[[], _Digest]:
    return lambda: hashlib.new(name, usedforsecurity=False)


_ALGORITHMS: Mapping[str, Callable[[], _Digest]] = {
    "sha1": _new("sha1"),
    "sha256": _new("sha256"),
    "md5": _new("md5"),
    "crc32": _Crc32,
}


class _Checksum:
    """What Upload-Checksum declares of one request's bytes."""

    def __init__(self, digest: _Digest, declared: bytes) -> None:
        self._digest = digest
        self._declared = declared

    def update(self, piece: bytes, /) -> None:
        """Take the next bytes."""
        self._digest.update(piece)

    def is_right(self) -> bool:
        """Whether those that came are those that were declared."""
        return hmac.compare_digest(self._digest.digest(), self._declared)


def _checksum(request: Request) -> _Checksum | None:
    header = request.headers.get("upload-checksum")
    if header is None:
        return None
    name, _, value = header.strip().partition(" ")
    try:
        declared = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        declared = b""
    if name.lower() not in _ALGORITHMS or not declared:
        raise BadInput(
            f"Upload-Checksum names one of {', '.join(_ALGORITHMS)}, then a space and the base64.",
            field="Upload-Checksum",
        )
    return _Checksum(_ALGORITHMS[name.lower()](), declared)
