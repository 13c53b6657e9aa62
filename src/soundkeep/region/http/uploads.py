"""One-shot upload as `multipart/form-data` (RFC 7578): parts `metadata` (JSON) and `content`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated

import msgspec
import multipart
from msgspec import Meta
from starlette.requests import Request

from soundkeep.foundation import web
from soundkeep.foundation.claims import Claims
from soundkeep.foundation.errors import BadInput, Incomplete, TooLarge
from soundkeep.region import arrivals
from soundkeep.region.arrivals import Kept, Upload, Wanted
from soundkeep.region.blobs import Sums
from soundkeep.region.http import digests
from soundkeep.region.http.digests import Declared
from soundkeep.region.plane import Region

MAX_METADATA = 1024 * 1024
_REPEAT_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_MD5 = r"^[0-9A-Fa-f]{32}$"


class Tag(msgspec.Struct, forbid_unknown_fields=True):
    """A tag on the wire."""

    key: str
    value: str


class Metadata(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The `metadata` part."""

    type: str
    object_name: str = ""
    mime_type: str = ""
    user_id: str = ""
    bucket_id: str = ""
    tags: list[Tag] = []
    shared: bool = False
    checksum_type: Annotated[str, Meta(pattern="^MD5$")] = "MD5"
    checksum: Annotated[str, Meta(pattern=_MD5)] | None = None


async def receive(request: Request, region: Region, claims: Claims) -> Kept:
    """Take both parts as they arrive and keep the object; whatever goes wrong leaves nothing."""
    expected = declared_length(request)
    if expected > region.limits.max_upload_bytes + MAX_METADATA:
        raise TooLarge(f"A recording may have {region.limits.max_upload_bytes} bytes at most.")
    boundary, key = _boundary(request), repeat_key(request)
    of_body, sums = digests.declared(request.headers.get), Sums()
    await arrivals.must_have_room(region, claims, max(0, expected - MAX_METADATA))
    async with Upload(region, claims, expected=expected) as upload:
        form = _Form(upload, claims)
        try:
            with multipart.PushMultipartParser(
                boundary, max_segment_count=2, max_header_count=8, strict=True
            ) as parser:
                async for chunk in web.chunks(request):
                    if of_body:
                        sums.add(chunk)
                    if chunk and not form.ended:
                        for event in parser.parse(chunk):
                            await form.take(event)
        except multipart.MultipartError as error:
            raise _translated(error) from None
        of_body.must_be(sums.digests())
        return await upload.finish(replace(form.wanted(), repeat_key=key))


class _Form:
    """The two parts, as the parser tells of them."""

    def __init__(self, upload: Upload, claims: Claims) -> None:
        self._upload = upload
        self._claims = claims
        self._part: multipart.MultipartSegment | None = None
        self._content: multipart.MultipartSegment | None = None
        self._metadata = bytearray()
        self._wanted: Wanted | None = None
        self._declared = Declared()

    @property
    def ended(self) -> bool:
        """Whether both parts are whole: what comes now is the epilogue (RFC 2046 §5.1.1)."""
        return self._part is None and self._wanted is not None and self._content is not None

    async def take(self, event: multipart.MultipartSegment | bytes | bytearray | None) -> None:
        """A part begins, goes on, or ends (None)."""
        match event:
            case multipart.MultipartSegment():
                self._begin(event)
            case None:
                self._end()
            case _ if self._part is self._content:
                await self._upload.write(bytes(event))
            case _:
                self._metadata += event
                if len(self._metadata) > MAX_METADATA:
                    raise TooLarge(
                        f"The metadata may have {MAX_METADATA} bytes at most.", field="metadata"
                    )

    def wanted(self) -> Wanted:
        """What the client asked for, once both parts are here."""
        if self._wanted is None:
            raise BadInput(
                'The part `metadata` is missing: JSON like {"type": "callrecording"}.',
                field="metadata",
            )
        if self._content is None:
            raise BadInput("The part `content` is missing: the bytes.", field="content")
        return replace(
            self._wanted,
            name=self._wanted.name or self._content.filename or "",
            mime_type=self._wanted.mime_type or self._content.content_type or "",
            checksum=self._declared.md5 or self._wanted.checksum,
            sha256=self._declared.sha256,
        )

    def _begin(self, part: multipart.MultipartSegment) -> None:
        if part.name not in ("metadata", "content"):
            raise BadInput(f"There is no part {part.name!r}: send metadata and content.")
        again = self._content if part.name == "content" else self._wanted
        if again is not None:
            raise BadInput(f"The part `{part.name}` came twice.", field=part.name)
        self._part = part
        if part.name == "content":
            self._content = part
            self._declared = digests.declared(part.header)

    def _end(self) -> None:
        if self._part is not self._content:
            self._wanted = parse(bytes(self._metadata))
            arrivals.check(self._claims, self._wanted)
        self._part = None


def parse(raw: bytes) -> Wanted:
    """The metadata of an object to be; BadInput names the member at fault."""
    try:
        given = msgspec.json.decode(raw, type=Metadata)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        name = path.rstrip("`")
        raise BadInput(f"metadata{name}: {what}.", field=f"metadata{name}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"The metadata is not JSON: {error}.", field="metadata") from None
    tags = {tag.key: tag.value for tag in given.tags}
    if len(tags) < len(given.tags):
        raise BadInput("Each tag key may come once.", field="metadata.tags")
    return Wanted(
        type=given.type,
        name=given.object_name,
        mime_type=given.mime_type,
        user_id=given.user_id,
        bucket_id=given.bucket_id,
        tags=tags,
        shared=given.shared,
        checksum=given.checksum or "",
    )


def repeat_key(request: Request) -> str:
    """The Idempotency-Key, with or without the quotes of a structured field; or empty."""
    text = request.headers.get("idempotency-key")
    if text is None:
        return ""
    key = text.strip().removeprefix('"').removesuffix('"')
    if not _REPEAT_KEY.fullmatch(key):
        raise BadInput(
            "An Idempotency-Key has 1 to 255 visible ASCII characters.", field="Idempotency-Key"
        )
    return key


def _boundary(request: Request) -> str:
    kind, options = multipart.parse_options_header(request.headers.get("content-type", ""))
    if kind.lower() != "multipart/form-data" or not options.get("boundary"):
        raise BadInput(
            "Send multipart/form-data with the parts `metadata` (JSON) and `content` (the bytes)."
        )
    return str(options["boundary"])


def declared_length(request: Request) -> int:
    """Content-Length, or 0 where it does not say."""
    text = request.headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _translated(error: multipart.MultipartError) -> BadInput | Incomplete:
    if "Unexpected end" in str(error):
        return Incomplete("The body ended before both parts were whole: nothing was kept.")
    return BadInput(f"The body is not multipart/form-data as it should be: {error}.")
