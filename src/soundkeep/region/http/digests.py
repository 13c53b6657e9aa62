"""What a client declares of bytes it sends: Content-MD5 (RFC 1864), the digests of RFC 9530."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import http_sf

from soundkeep.foundation.errors import BadInput, Incomplete
from soundkeep.region.model import Digests

HEADERS = ("Content-MD5", "Content-Digest", "Repr-Digest")
_SIZES = {"md5": 16, "sha-256": 32}


@dataclass(frozen=True, slots=True)
class Declared:
    """Digests in hex; empty where nothing was said."""

    md5: str = ""
    sha256: str = ""

    def __bool__(self) -> bool:
        return bool(self.md5 or self.sha256)

    def must_be(self, found: Digests) -> None:
        """Incomplete where the body has other bytes."""
        for name, declared, have in (
            ("MD5", self.md5, found.md5),
            ("SHA-256", self.sha256, found.sha256),
        ):
            if declared and declared != have:
                raise Incomplete(
                    f"The body's {name} is {have}, not the one in its header: nothing was kept, "
                    "send it again. A header of the part `content` speaks of the content alone."
                )


def declared(header: Callable[[str], str | None]) -> Declared:
    """What these headers say; BadInput where it cannot be read or checked."""
    found: dict[str, bytes] = {}
    md5 = header("Content-MD5")
    if md5 is not None:
        found["md5"] = _decoded(md5)
    for name in HEADERS[1:]:
        text = header(name)
        if text is not None:
            found |= _members(name, text)
    return Declared(found.get("md5", b"").hex(), found.get("sha-256", b"").hex())


def _decoded(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _SIZES["md5"]:
        raise BadInput("Content-MD5 is the base64 of 16 bytes.", field="Content-MD5")
    return raw


def _members(name: str, text: str) -> dict[str, bytes]:
    """The digests of one header that we can check: at least one of them."""
    given: dict[str, Any] = {}
    with suppress(ValueError):
        given = cast("dict[str, Any]", http_sf.parse(text.encode("ascii"), tltype="dictionary"))
    known = {
        algorithm: item[0]
        for algorithm, item in given.items()
        if algorithm in _SIZES
        and isinstance(item, tuple)
        and isinstance(item[0], bytes)
        and len(item[0]) == _SIZES[algorithm]
    }
    if not known:
        raise BadInput(f"{name} is like sha-256=:BASE64: (RFC 9530).", field=name)
    return known
