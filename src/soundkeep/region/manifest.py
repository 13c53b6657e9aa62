"""What an archive holds, told in files of its own: JSON lines, CSV, and checksums. Pure."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

JSON_LINES = "manifest.jsonl"
CSV = "manifest.csv"
CHECKSUMS = "SHA256SUMS"
FILES = (JSON_LINES, CSV, CHECKSUMS)
"""The files, in the order in which they end an archive."""

_PLAIN = {
    "id": "id",
    "objectName": "objectName",
    "type": "type",
    "mimeType": "mimeType",
    "storedBytes": "storedBytes",
    "createdTime": "createdTime",
    "userId": "userId",
    "bucketId": "bucketId",
    "md5": "checksum",
}
"""Columns, and the members of an object's JSON that they hold as they are."""

_COLUMNS = ("file", *_PLAIN, "sha256", "tags")
_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d\s().-]*\Z)")
"""What a spreadsheet would compute: all but telephone numbers and negative ones."""


@dataclass(frozen=True, slots=True)
class Line:
    """One file of the archive: its name there, its SHA-256 in hex, and its object's JSON."""

    file: str
    sha256: str
    document: str


def header() -> bytes:
    """The first line of the CSV."""
    return _csv([_COLUMNS])


def json_lines(lines: Iterable[Line]) -> bytes:
    """`{"file", "sha256", "object"}` each, the object as the API answers it."""
    return b"".join(
        msgspec.json.encode(
            {
                "file": each.file,
                "sha256": each.sha256,
                "object": msgspec.Raw(each.document.encode()),
            }
        )
        + b"\n"
        for each in lines
    )


def csv_rows(lines: Iterable[Line]) -> bytes:
    """RFC 4180; a text that a spreadsheet would take for a formula has an apostrophe before it."""
    return _csv(_row(each) for each in lines)


def checksums(files: Iterable[tuple[str, str]]) -> bytes:
    """`SHA-256  NAME` each, for `sha256sum --check`: (name, digest)."""
    return "".join(f"{digest}  {name}\n" for name, digest in files).encode()


def _row(line: Line) -> list[str]:
    body = json.loads(line.document)
    tags = {each["key"]: each["value"] for each in body["tags"]}
    plain = [_harmless(str(body[member])) for member in _PLAIN.values()]
    return [_harmless(line.file), *plain, line.sha256, json.dumps(tags, ensure_ascii=False)]


def _harmless(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text


def _csv(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
