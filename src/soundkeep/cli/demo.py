"""`soundkeep demo`: a self-contained installation with made-up companies and recordings."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from soundkeep.cli import installation, serve
from soundkeep.foundation.errors import BadSettings, Conflict
from soundkeep.settings import Settings

NAME = "demo"
REGIONS = ("us-east", "uk")
_LISTING = "demo.json"


def command(
    *,
    dir: Annotated[Path, Parameter(help="Its folder; made, or used again.")],
    port: Annotated[int, Parameter(help="The port on 127.0.0.1.")] = 8080,
    objects: Annotated[int, Parameter(help="Add so many synthetic objects, for measuring.")] = 0,
    serve: Annotated[bool, Parameter(help="Serve it.")] = True,
) -> None:
    """Make a demo (or use it again), print how to sign in and what to try, and serve it."""
    if objects < 0 or not 0 < port < 65536:
        raise BadSettings("--objects is 0 or more, --port from 1 to 65535.")
    if not (dir / _LISTING).exists():
        _make(dir, port)
    settings, listing = _opened(dir, port)
    if objects:
        _add(settings, listing, objects)
    print(_words(listing), flush=True)
    if serve:
        _serve(settings)


def _make(folder: Path, port: int) -> None:
    """Make it beside its place and move it there when it is whole."""
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty and holds no demo: choose another folder.")
    making = folder.absolute().with_name(f".{folder.absolute().name}.making")
    shutil.rmtree(making, ignore_errors=True)
    try:
        settings = installation.create(making, port=port, regions=REGIONS)
        listing = asyncio.run(_fill(settings))
        installation.write_private(making / _LISTING, _pretty(listing))
        making.replace(folder.absolute())
    finally:
        shutil.rmtree(making, ignore_errors=True)


async def _fill(settings: Settings) -> dict[str, object]:
    from soundkeep import server
    from soundkeep.sample import planting

    await server.migrate_all(settings)
    identity = await server.open_identity(settings)
    regions = {
        name: await server.open_region(name, each) for name, each in settings.regions.items()
    }
    try:
        return await planting.plant(identity, regions, base_url=settings.base_url)
    finally:
        await identity.db.close()
        for region in regions.values():
            await region.close()


def _opened(folder: Path, port: int) -> tuple[Settings, dict[str, object]]:
    """The settings with this port, and the listing, which follows it."""
    settings = installation.load(folder / installation.CONFIG)
    server = msgspec.structs.replace(settings.server, host="127.0.0.1", port=port)
    settings = msgspec.structs.replace(settings, server=server)
    listing = msgspec.json.decode((folder / _LISTING).read_bytes(), type=dict[str, object])
    listing |= {"base_url": settings.base_url, "console_url": f"{settings.base_url}/console/"}
    installation.write_private(folder / _LISTING, _pretty(listing))
    return settings, listing


def _add(settings: Settings, listing: dict[str, object], count: int) -> None:
    from soundkeep import server
    from soundkeep.sample import synthetic

    async def work() -> None:
        name = REGIONS[0]
        region = await server.open_region(name, settings.regions[name])
        try:
            await synthetic.load(region, customer=str(listing["customer_id"]), count=count)
        finally:
            await region.close()

    started = time.monotonic()
    asyncio.run(work())
    seconds = time.monotonic() - started
    print(f"Added {count} synthetic objects in {seconds:.1f} s, {count / seconds:.0f} a second.")


def _serve(settings: Settings) -> None:
    serve.start(settings)


def _words(listing: dict[str, object]) -> str:
    from soundkeep.sample import planting

    return planting.words(listing)


def _pretty(listing: dict[str, object]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(listing)) + b"\n"
