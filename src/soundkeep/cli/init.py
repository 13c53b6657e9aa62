"""`soundkeep init`: a new, empty installation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soundkeep.cli import installation
from soundkeep.settings import REFERENCE_REGIONS, Settings

NAME = "init"


def command(
    *,
    dir: Annotated[Path, Parameter(help="The folder to make it in.")],
    port: Annotated[int, Parameter(help="The port to listen on.")] = 8080,
    region: Annotated[
        list[str] | None,
        Parameter(help=f"A region to serve, may be repeated; clients know {REFERENCE_REGIONS}."),
    ] = None,
) -> None:
    """Make an installation and print the code that makes its first Super Admin."""
    settings = installation.create(dir, port=port, regions=region or ["us-east"])
    code = asyncio.run(_set_up(settings))
    print(f"Made {dir}. Start it:  soundkeep serve --config {dir / installation.CONFIG}")
    print(f"Then open {settings.base_url}/console/setup and enter this set-up code: {code}")


async def _set_up(settings: Settings) -> str:
    from soundkeep import server
    from soundkeep.identity import accounts

    await server.migrate_all(settings)
    identity = await server.open_identity(settings)
    try:
        return await accounts.new_setup_code(identity)
    finally:
        await identity.db.close()
