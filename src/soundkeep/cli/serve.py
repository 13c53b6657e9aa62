"""`soundkeep serve`: the service itself."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soundkeep.cli import installation
from soundkeep.settings import Settings

NAME = "serve"


def command(
    *,
    config: Annotated[Path, Parameter(help="The settings: a TOML file.")] = Path("soundkeep.toml"),
) -> None:
    """Serve until told to stop."""
    start(installation.load(config))


def start(settings: Settings, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serve these settings until told to stop; `ready` is called just before the first answer."""
    with tempfile.TemporaryDirectory(prefix="soundkeep-metrics-") as folder:
        # Workers sum their metrics in this folder. The library reads its name when it is first
        # imported, so the import waits for it.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        from soundkeep import server

        server.serve(settings, ready=ready)
