"""An installation's folder: `soundkeep.toml`, the secret key, the databases and the recordings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from cryptography.fernet import Fernet

from soundkeep.foundation.errors import Conflict
from soundkeep.settings import Settings, read

CONFIG = "soundkeep.toml"

_PORT = re.compile(r"^port = \d+$", re.MULTILINE)
_TEMPLATE = """\
# Soundkeep's settings; docs/settings.md explains each. Paths are relative to this file.
# SOUNDKEEP_SERVER__PORT=9000 in the environment overrides `port` of [server].

[server]
host = "127.0.0.1"
port = {port}
# public_url = "https://recordings.example.com"   # what clients call this service
# tls_certificate = "tls.crt"
# tls_key = "tls.key"
# trusted_proxies = ["10.0.0.0/8"]                # proxies whose X-Forwarded-* headers count

[identity]
# database = "postgresql://user@host/soundkeep"   # SQLite beside this file if left out
"""


def create(folder: Path, *, port: int, regions: Iterable[str]) -> Settings:
    """Make a folder with settings and a secret key; Conflict where there is one already."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = folder / CONFIG
    if config.exists():
        raise Conflict(f"{config} exists already: choose another folder, or go on with that one.")
    _write_private(folder / "secret.key", Fernet.generate_key())
    text = _TEMPLATE.format(port=port) + "".join(f"\n[regions.{name}]\n" for name in regions)
    config.write_text(text, "utf-8")
    return load(config)


def listen_on(config: Path, port: int) -> Settings:
    """Change the port in a file that `create` wrote."""
    text = config.read_text("utf-8")
    config.write_text(_PORT.sub(f"port = {port}", text, count=1), "utf-8")
    return load(config)


def load(config: Path) -> Settings:
    """The settings of a file and of this process' environment."""
    return read(config, os.environ)


def write_private(file: Path, content: bytes) -> None:
    """Replace a file that only its owner may read, in one step."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    _write_private(fresh, content)
    fresh.replace(file)


def _write_private(file: Path, content: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(descriptor)
