"""`soundkeep serve`: the service itself."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    with metrics_folder():
        start(installation.load(config))


@contextmanager
def metrics_folder() -> Iterator[None]:
    """A folder in which all workers sum their metrics.

    To be entered first: the metrics library reads its name once, when it is imported.
    """
    with tempfile.TemporaryDirectory(prefix="soundkeep-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


def start(settings: Settings, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serve these settings until told to stop; `ready` is called just before the first answer."""
    from soundkeep import server

    server.serve(settings, ready=ready)
