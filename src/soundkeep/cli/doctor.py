"""`soundkeep doctor`: whether an installation is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from soundkeep.cli import installation
from soundkeep.settings import Settings

if TYPE_CHECKING:
    from soundkeep.identity.plane import Identity
    from soundkeep.region.plane import Region

NAME = "doctor"


def command(
    *,
    config: Annotated[Path, Parameter(help="The settings: a TOML file.")] = Path("soundkeep.toml"),
    verify: Annotated[bool, Parameter(help="Read every recording, mark what rotted.")] = False,
) -> int:
    """Check settings, secret key, databases, audit chains and recordings; exit with 1 if amiss."""
    return asyncio.run(_examine(installation.load(config), config, verify=verify))


async def _examine(settings: Settings, config: Path, *, verify: bool) -> int:
    amiss = 0
    print(f"ok    settings        {config}")
    async for good, what in _findings(settings, verify=verify):
        amiss += not good
        print(f"{'ok   ' if good else 'AMISS'} {what}")
    return 1 if amiss else 0


async def _findings(settings: Settings, *, verify: bool) -> AsyncIterator[tuple[bool, str]]:
    from soundkeep import server
    from soundkeep.foundation import audit
    from soundkeep.foundation.database import connect
    from soundkeep.foundation.errors import Unavailable
    from soundkeep.foundation.migrate import pending
    from soundkeep.identity import accounts
    from soundkeep.region import retention

    good, what = _secret_key(Path(settings.identity.secret_key_file))
    yield good, what
    for name, wanted in settings.regions.items():
        if wanted.s3.secret_access_key_file:
            good, what = _private(Path(wanted.s3.secret_access_key_file))
            yield good, f"secret of S3    {name}, {what}"
    for name, url, packages in server.databases(settings):
        db = await connect(url)
        try:
            waiting = await pending(db, packages)
            advice = ": run `soundkeep migrate`" if waiting else ""
            yield not waiting, f"database        {name}, {len(waiting)} migrations to apply{advice}"
            if waiting:
                return
            for customer in await audit.customers(db):
                broken = await audit.first_broken(db, customer=customer)
                what = "whole" if broken is None else f"BROKEN at record {broken}"
                yield broken is None, f"audit chain     {name}, customer {customer}: {what}"
        finally:
            await db.close()
    identity = await server.open_identity(settings)
    try:
        yield await _signing_keys(identity)
        fresh = await accounts.needs_setup(identity)
        state = "waiting for its Super Admin at /console/setup" if fresh else "set up"
        yield True, f"accounts        {state}"
    finally:
        await identity.db.close()
    for name in settings.regions:
        region = await server.open_region(settings, name)
        try:
            yield await _link_keys(region)
            await region.blobs.check()
            total, lost = await retention.survey(region)
            advice = "".join(f" {each}" for each in lost[:10])
            yield not lost, f"recordings      {name}: {total}, {len(lost)} without bytes{advice}"
            if verify:
                yield await _verified(region)
        except Unavailable as error:
            yield False, f"recordings      {name}, {settings.regions[name].blobs}: {error.message}"
        finally:
            await region.close()


async def _verified(region: Region) -> tuple[bool, str]:
    """Read every blob, with a progress bar where somebody looks on."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from soundkeep.region import integrity

    now_ms = region.clock()
    blobs, size = await integrity.pending(region, before_ms=now_ms)
    failed, returned, known = list[str](), list[str](), list[str]()
    rotten = 0
    columns = (region.name, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    screen = Console(stderr=True)
    with Progress(
        *columns, console=screen, transient=True, disable=not screen.is_terminal
    ) as progress:
        task = progress.add_task("", total=size)
        async for finding in integrity.verify(region, before_ms=now_ms):
            progress.advance(task, finding.blob.size)
            rotten += not finding.sound
            known += [finding.blob.key] if finding.blob.rotten and not finding.sound else []
            failed += finding.failed
            returned += finding.returned
    what = f"bytes           {region.name}: {blobs} blobs read, {rotten} rotten"
    what += f" ({len(known)} known before: {' '.join(known[:10])})" if known else ""
    for ids, state in ((failed, "FAILED now"), (returned, "AVAILABLE again")):
        what += f"; {len(ids)} objects are {state}: {' '.join(ids[:10])}" if ids else ""
    return not rotten, what


async def _signing_keys(identity: Identity) -> tuple[bool, str]:
    from soundkeep.foundation.errors import Tampered
    from soundkeep.identity.tokens import Issuer

    try:
        await Issuer(identity).trust()
    except Tampered as error:
        return False, f"signing keys    {error.message}"
    return True, "signing keys    the secret key opens them"


async def _link_keys(region: Region) -> tuple[bool, str]:
    from soundkeep.foundation.errors import Tampered

    try:
        count = await region.link_keys.check()
    except Tampered as error:
        return False, f"link keys       {region.name}: {error.message}"
    what = f"{count}, the secret key opens them" if count else "none yet"
    return True, f"link keys       {region.name}: {what}"


def _secret_key(file: Path) -> tuple[bool, str]:
    from soundkeep.foundation.errors import SoundkeepError
    from soundkeep.foundation.vault import vault

    try:
        vault(file)
    except SoundkeepError as error:
        return False, f"secret key      {error.message}"
    good, what = _private(file)
    return good, f"secret key      {what}"


def _private(file: Path) -> tuple[bool, str]:
    """Whether nobody but its owner may read a file, and what to do."""
    private = not file.stat().st_mode & 0o077
    return private, f"{file}" + ("" if private else f": chmod 600 {file}")
