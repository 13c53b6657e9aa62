"""`soundkeep migrate`: bring the databases up to date."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soundkeep.cli import installation

NAME = "migrate"


def command(
    *,
    config: Annotated[Path, Parameter(help="The settings: a TOML file.")] = Path("soundkeep.toml"),
) -> None:
    """Apply what is new; `serve` does the same at its start."""
    from soundkeep import server

    applied = asyncio.run(server.migrate_all(installation.load(config)))
    for database, each in applied:
        print(f"{database}: applied {each.package} {each.number:04d} {each.name}")
    if not applied:
        print("Everything is up to date.")
