"""`soundkeep demo`: a self-contained installation with made-up companies and recordings."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from soundkeep.cli import installation
from soundkeep.cli.serve import metrics_folder, start
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
    with metrics_folder():
        if not (dir / _LISTING).exists():
            _make(dir, port)
        if objects:
            _add(dir, objects)
        settings = installation.listen_on(dir / installation.CONFIG, port)
        if serve:
            start(settings, ready=lambda: _announce(dir, settings))
        else:
            _announce(dir, settings)


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
    regions = {name: await server.open_region(settings, name) for name in settings.regions}
    try:
        return await planting.plant(identity, regions, base_url=settings.base_url)
    finally:
        await identity.db.close()
        for region in regions.values():
            await region.close()


def _add(folder: Path, count: int) -> None:
    from soundkeep import server
    from soundkeep.sample import synthetic

    settings = installation.load(folder / installation.CONFIG)
    customer = str(_listing(folder)["customer_id"])

    async def work() -> None:
        await server.migrate_all(settings)
        region = await server.open_region(settings, REGIONS[0])
        try:
            if not region.blobs.lock(alone=False):
                raise Conflict(f"{folder}: a service is just starting here: try again.")
            await synthetic.load(region, customer=customer, count=count)
        finally:
            await region.close()

    started = time.monotonic()
    asyncio.run(work())
    seconds = time.monotonic() - started
    print(f"Added {count} synthetic objects in {seconds:.1f} s, {count / seconds:.0f} a second.")


def _announce(folder: Path, settings: Settings) -> None:
    """Print how to sign in and what to try; the listing follows the port."""
    from soundkeep.sample import planting

    base_url = settings.base_url
    listing = {**_listing(folder), "base_url": base_url, "console_url": f"{base_url}/console/"}
    installation.write_private(folder / _LISTING, _pretty(listing))
    print(planting.words(listing), flush=True)


def _listing(folder: Path) -> dict[str, object]:
    return msgspec.json.decode((folder / _LISTING).read_bytes(), type=dict[str, object])


def _pretty(listing: dict[str, object]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(listing)) + b"\n"
