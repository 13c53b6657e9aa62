"""`/console/static`: style sheet, script and pictures, read once, named with a hash of themselves.

A page asks for `console.css?v=HASH`, so a browser may keep the file for good and still never shows
a page with yesterday's style.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOR_GOOD = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    content: bytes
    kind: str
    hash: str


Assets = Mapping[str, Asset]
"""Files by their path below `static/`."""


class Holder(Protocol):
    """Whoever has the files."""

    @property
    def assets(self) -> Assets:
        """The files."""


def load() -> Assets:
    """Every file under `static/` whose kind we serve; `vendor/htmx.min.js` may be missing."""
    return dict(_found(files("soundkeep.console") / "static", ""))


def routes(holder: Holder) -> list[Route]:
    """The one route of static files: known names only, so no path leads anywhere else."""

    async def serve(request: Request) -> Response:
        asset = holder.assets.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404)
        fresh = request.query_params.get("v") == asset.hash
        headers = {
            "cache-control": _FOR_GOOD if fresh else "no-cache",
            "etag": f'"{asset.hash}"',
            "content-type": asset.kind,
            "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
            "cross-origin-resource-policy": "same-origin",
        }
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=headers)

    return [Route("/static/{name:path}", serve)]


def _found(folder: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        kind = _KINDS.get(f".{entry.name.rpartition('.')[2]}")
        if entry.is_dir():
            found += _found(entry, f"{prefix}{entry.name}/")
        elif kind is not None:
            content = entry.read_bytes()
            short = hashlib.sha256(content).hexdigest()[:16]
            found.append((prefix + entry.name, Asset(content, kind, short)))
    return found
