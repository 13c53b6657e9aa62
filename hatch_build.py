"""Build hook: brings htmx from the npm registry into the console's static files.

The script is never committed. It is fetched at a pinned version, checked against the integrity
that the registry published for it, and carried by the wheel. Without npm or without a network the
build says so in one line and goes on: the console works without it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "htmx.org"
VERSION = "2.0.11"
INTEGRITY = (
    "sha512-Thx/WtpeOQqSrqBCw/A1cwGJGg4UrVa3+sW0GmrM3p4g"
    "JgO89ecH4qtbnyzDDWFvBTqjnIMCgELTNt636dtamA=="
)
MEMBER = "package/dist/htmx.min.js"
MEMBER_SHA256 = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"
TARGET = "src/soundkeep/console/static/vendor/htmx.min.js"
PATIENCE_SECONDS = 90


class Unobtainable(Exception):
    """The script cannot be had here: no npm, no network, or not the bytes that we pinned."""


class BringVendoredScripts(BuildHookInterface):
    """Runs before a wheel (an editable one too) or an sdist is put together."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Put htmx.min.js in place unless the pinned one is already there."""
        target = Path(self.root, TARGET)
        if is_pinned(target):
            return
        try:
            content = fetch()
        except Unobtainable as reason:
            # A file that is not the pinned one would be served to browsers: better none.
            target.unlink(missing_ok=True)
            self.app.display_warning(
                f"{PACKAGE} {VERSION} left out, the console works without it: {reason}"
            )
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        part.write_bytes(content)
        part.replace(target)


def is_pinned(path: Path) -> bool:
    """Whether the file is there and is the very one that we pinned."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == MEMBER_SHA256


def fetch() -> bytes:
    """The pinned script's bytes, by `npm pack` in a temporary folder."""
    npm = shutil.which("npm")
    if npm is None:
        raise Unobtainable("npm was not found")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", "--ignore-scripts", "--fetch-retries=1"]
        try:
            done = subprocess.run(
                [*command, f"{PACKAGE}@{VERSION}"],
                cwd=folder,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise Unobtainable(f"npm pack failed ({type(failure).__name__})") from failure
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or len(archives) != 1:
            raise Unobtainable(f"npm pack ended with {done.returncode}")
        return extract(archives[0])


def extract(archive: Path) -> bytes:
    """The script out of the package, after both checks; `Unobtainable` if either fails."""
    algorithm, _, expected = INTEGRITY.partition("-")
    found = base64.b64encode(hashlib.new(algorithm, archive.read_bytes()).digest()).decode()
    if not hmac.compare_digest(found, expected):
        raise Unobtainable("the package is not the one whose integrity is pinned")
    with tarfile.open(archive) as package:
        member = package.extractfile(MEMBER)
        content = member.read() if member else b""
    if hashlib.sha256(content).hexdigest() != MEMBER_SHA256:
        raise Unobtainable(f"{MEMBER} is not the one whose checksum is pinned")
    return content
