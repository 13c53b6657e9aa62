"""`soundkeep objects`: what an operator asks about the objects of a region."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from soundkeep.cli import installation
from soundkeep.foundation.claims import internal
from soundkeep.foundation.errors import BadSettings

NAME = "objects"

command = App(name=NAME, help="Ask about the objects of a region.")


@command.command
def explain(
    filter: Annotated[str, Parameter(help="What is searched for: docs/search.md.")] = "",
    /,
    *,
    customer: Annotated[str, Parameter(help="Whose objects: the customer's id.")],
    region: Annotated[str, Parameter(help="Which region; the first one if left out.")] = "",
    sort: Annotated[str, Parameter(help="A content field or a tag.")] = "createdTime",
    ascending: Annotated[bool, Parameter(help="Sort upwards.")] = False,
    config: Annotated[Path, Parameter(help="The settings: a TOML file.")] = Path("soundkeep.toml"),
) -> None:
    """Tell how a search finds its rows: the plan, estimated and real rows, the engine's steps."""
    from soundkeep import server
    from soundkeep.foundation.migrate import pending
    from soundkeep.region import catalog
    from soundkeep.region.plane import PACKAGES

    settings = installation.load(config)
    name = region or next(iter(settings.regions))
    if name not in settings.regions:
        raise BadSettings(f"There is no region {name}: choose from {', '.join(settings.regions)}.")
    wanted = catalog.Search(filter=filter, sort=sort, descending=not ascending, explain=True)

    async def work() -> catalog.Page:
        opened = await server.open_region(settings, name)
        try:
            if await pending(opened.db, PACKAGES):
                raise BadSettings("The database is older than this version: soundkeep migrate.")
            claims = internal(customer, by=NAME, owner=NAME, regions=(name,))
            return await catalog.search(opened, claims, wanted)
        finally:
            await opened.close()

    page = asyncio.run(work())
    told = page.explanation
    assert told is not None
    print(f"plan            {told.plan}: {told.meaning}")
    print(f"estimated rows  {told.estimated_rows}")
    print(f"real rows       {'' if page.total.exact else 'at least '}{told.rows}")
    print(f"first page      {len(page.documents)} objects in {told.milliseconds} ms")
    for step in told.steps:
        print(f"step            {step}")
