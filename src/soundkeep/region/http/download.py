"""How bytes are answered: whole, a range, or several of them; or the news that nothing changed.

RFC 9110 §13 to §15, RFC 9530 (digests), RFC 6266 (names). Contract §2, "Objects".
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from soundkeep.region.content import Body
from soundkeep.region.http import conditional
from soundkeep.region.http.conditional import Slice, Validators
from soundkeep.region.http.guard import flag
from soundkeep.region.plane import Region

_NOT_PLAIN = re.compile(r'[^\x20-\x7e]|["\\]')
_BREATH = 1024 * 1024
"""After so many bytes others have their turn: reading and sending may both take no waiting."""

_BODY = "http.response.body"
_UNTOLD = -1
_BOUNDARY_BYTES = 16


def answer(request: Request, region: Region, body: Body) -> Response:
    """The bytes, as far as the request asks for them; HEAD: about the whole.

    With `inline=true` a browser may show them. Nothing is sent before all of it is checked.
    """
    inline = flag(request, "inline")
    current = Validators(body.etag, body.modified_ms)
    asked = conditional.asked(request.headers.raw)
    headers = {
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "etag": current.etag,
        "last-modified": current.last_modified,
    }
    if conditional.is_fresh(asked, current):
        return Response(status_code=304, headers=headers)
    headers |= _description(body, inline=inline)
    if request.method == "HEAD":  # ranges are defined for GET only (RFC 9110 §14.2)
        body.look()
        return Response(None, 200, {**headers, "content-length": str(body.size)})
    parts = conditional.ranges(asked, current, body.size)
    if parts is None:
        return _slice(region, body, 200, headers, Slice(0, body.size))
    if len(parts) == 1:
        headers["content-range"] = _content_range(parts[0], body)
        return _slice(region, body, 206, headers, parts[0])
    return _ranges(region, body, headers, parts)


def _slice(
    region: Region, body: Body, status: int, headers: Mapping[str, str], part: Slice
) -> Response:
    at_hand = body.at_hand(part.start, part.end)
    if at_hand is not None:
        return Response(at_hand, status, headers)
    body.look()
    headers = {**headers, "content-length": str(part.end - part.start)}
    return Streamed(region, _pieces(body, [(b"", part)]), status, headers)


def _ranges(
    region: Region, body: Body, headers: Mapping[str, str], parts: Sequence[Slice]
) -> Response:
    """Several ranges as `multipart/byteranges` (RFC 9110 §14.6)."""
    body.look()
    boundary = region.entropy(_BOUNDARY_BYTES).hex()
    headed = [(_part_head(boundary, part, body), part) for part in parts]
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = sum(len(head) + part.end - part.start for head, part in headed) + len(tail)
    headers = {
        **headers,
        "content-length": str(length),
        "content-type": f"multipart/byteranges; boundary={boundary}",
    }
    return Streamed(region, _pieces(body, headed, tail), 206, headers)


def _part_head(boundary: str, part: Slice, body: Body) -> bytes:
    lines = (
        "",
        f"--{boundary}",
        f"Content-Type: {body.mime_type}",
        f"Content-Range: {_content_range(part, body)}",
        "\r\n",
    )
    return "\r\n".join(lines).encode()


def _content_range(part: Slice, body: Body) -> str:
    return f"bytes {part.start}-{part.end - 1}/{body.size}"


async def _pieces(
    body: Body, parts: Sequence[tuple[bytes, Slice]], tail: bytes = b""
) -> AsyncGenerator[bytes, None]:
    """Each part's head and bytes, then the tail."""
    for head, part in parts:
        slices = await body.read(part.start, part.end)
        async with aclosing(slices):
            if head:
                yield head
            async for piece in slices:
                yield piece
    if tail:
        yield tail


class Streamed(StreamingResponse):
    """Pieces, sent no faster than the client takes them, and let go soon after it left.

    The first is there before anything is sent, so that a store that fails is still told of.
    """

    def __init__(
        self,
        region: Region,
        pieces: AsyncGenerator[bytes, None],
        status: int,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(pieces, status, headers)
        self._pieces = pieces
        self._pace = region.pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """In place of Starlette's, which takes two tasks even for one piece."""
        del scope
        async with aclosing(self._pieces) as pieces, aclosing(_Client(receive)) as client:
            first = await anext(pieces, b"")
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            await self._send(first, pieces, client, send)

    async def _send(
        self, piece: bytes, pieces: AsyncGenerator[bytes, None], client: _Client, send: Send
    ) -> None:
        left = int(self.headers.get("content-length", _UNTOLD))
        breath = _BREATH
        while piece:
            for part in self._parts(piece):
                left -= len(part)
                sending = send({"type": _BODY, "body": part, "more_body": left != 0})
                await self._pace.hand(sending)
            breath -= len(piece)
            if not left or (breath <= 0 and await client.left()):
                return
            breath = breath if breath > 0 else _BREATH
            piece = await anext(pieces, b"")
        await send({"type": _BODY, "body": b""})

    def _parts(self, piece: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(piece):
            part = piece[at : at + self._pace.size]
            at += len(part)
            yield part


class _Client:
    """Whether the client is still there, to be asked by answers that take long."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._leaving: asyncio.Task[None] | None = None

    async def left(self) -> bool:
        """Known a little later than it happens; others have their turn meanwhile."""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave())
        await asyncio.sleep(0)
        return self._leaving.done()

    async def aclose(self) -> None:
        """Nobody asks any more."""
        if self._leaving is not None:
            self._leaving.cancel()

    async def _leave(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _description(body: Body, *, inline: bool) -> dict[str, str]:
    """How to treat the bytes: what they are, under which name, and never as a page of ours."""
    name = body.name.rpartition("/")[2] or body.id
    plain = _NOT_PLAIN.sub("_", name)
    kind = "inline" if inline else "attachment"
    headers = {
        "content-type": body.mime_type,
        "content-disposition": f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}",
        "content-security-policy": "sandbox; default-src 'none'",
    }
    if body.sha256:
        digest = base64.b64encode(bytes.fromhex(body.sha256)).decode()
        headers["repr-digest"] = f"sha-256=:{digest}:"
    return headers
