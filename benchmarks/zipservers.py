"""Two other ways to send a folder as one ZIP: `python benchmarks/zipservers.py PORT ROOT`.

`/zipfile/FOLDER` makes the archive by the standard library, as a temporary file, then sends that by
sendfile; `/zipstream/FOLDER` makes it by zipstream-ng while it is sent. FOLDER is one below ROOT.
Each request has a thread.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from zipstream import ZipStream


class Sending(BaseHTTPRequestHandler):
    """One request."""

    root: Path

    def do_GET(self) -> None:
        """Answer the archive."""
        how, _, folder = self.path[1:].partition("/")
        if how == "zipfile":
            self._made_before(self.root / folder)
        elif how == "zipstream":
            self._made_meanwhile(self.root / folder)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _made_before(self, folder: Path) -> None:
        with tempfile.TemporaryFile(dir=self.root) as file:
            with zipfile.ZipFile(file, "w") as archive:
                for member in _members(folder):
                    archive.write(member, member.name)
            self._head(file.tell())
            file.seek(0)
            self.connection.sendfile(file)

    def _made_meanwhile(self, folder: Path) -> None:
        stream = ZipStream(sized=True)
        for member in _members(folder):
            stream.add_path(member, member.name)
        self._head(len(stream))
        for piece in stream:
            self.wfile.write(piece)

    def _head(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/zip")
        self.send_header("Content-Length", str(size))
        self.end_headers()


def _members(folder: Path) -> list[Path]:
    return sorted(Path(entry) for entry in os.scandir(folder))


if __name__ == "__main__":
    Sending.root = Path(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Sending).serve_forever()
