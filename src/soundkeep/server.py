"""The composition root: settings in, one running service out.

`running` opens everything and gives the ASGI application; `serve` puts it behind Granian, with as
many workers as the settings say.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import structlog
from argon2 import PasswordHasher
from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols
from granian.http import HTTP1Settings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from soundkeep import console, operations
from soundkeep.foundation import journal, web
from soundkeep.foundation.clock import Clock, Entropy, now_ms
from soundkeep.foundation.database import connect
from soundkeep.foundation.errors import Conflict, SoundkeepError, Unavailable
from soundkeep.foundation.migrate import Migration, migrate
from soundkeep.foundation.vault import vault
from soundkeep.foundation.verify import Verifier
from soundkeep.identity import http as identity_http
from soundkeep.identity import plane as identity_plane
from soundkeep.identity.plane import Identity, Policy
from soundkeep.identity.tokens import Issuer
from soundkeep.region import http as region_http
from soundkeep.region import integrity, links, retention
from soundkeep.region import plane as region_plane
from soundkeep.region.blobs import Bucket
from soundkeep.region.model import Quota, Quotas
from soundkeep.region.plane import Limits, Region
from soundkeep.settings import REFERENCE_REGIONS, RegionSettings, Settings

_UPKEEP_SECONDS = 600
_PARENT_SECONDS = 1.0
_STOP_SECONDS = 30
_MAX_HEADERS = 64 * 1024
_OPEN_FILES = 65_536
_DISK_THREADS = 32
"""Enough for many syncs at once: the file system then makes one of them."""

log = structlog.get_logger("server")


# ---- the parts ------------------------------------------------------------------------------


async def open_identity(
    settings: Settings, *, clock: Clock = now_ms, entropy: Entropy = secrets.token_bytes
) -> Identity:
    """The control plane on its database."""
    wanted = settings.identity
    return Identity(
        db=await connect(wanted.database),
        clock=clock,
        entropy=entropy,
        issuer=settings.base_url,
        vault=vault(Path(wanted.secret_key_file)),
        passwords=PasswordHasher(),
        policy=Policy(
            token_seconds=wanted.token_seconds,
            signing_key_days=wanted.signing_key_days,
            session_idle_minutes=wanted.session_idle_minutes,
            session_hours=wanted.session_hours,
            failures_per_key=wanted.failures_per_key,
            failures_per_address=wanted.failures_per_address,
        ),
        regions=tuple(settings.regions),
    )


async def open_region(
    settings: Settings,
    name: str,
    *,
    clock: Clock = now_ms,
    entropy: Entropy = secrets.token_bytes,
) -> Region:
    """One region on its database and its folder or bucket."""
    wanted = settings.regions[name]
    return await region_plane.open_region(
        name,
        database=wanted.database,
        blobs=_place(wanted),
        clock=clock,
        entropy=entropy,
        limits=limits(wanted),
        vault=vault(Path(settings.identity.secret_key_file)),
        base_url=settings.base_url,
    )


def limits(wanted: RegionSettings) -> Limits:
    """How much a region takes, as the settings say."""
    special = {name: Quota(each.objects, each.bytes) for name, each in wanted.quotas.items()}
    return Limits(
        max_upload_bytes=wanted.max_upload_bytes,
        min_free_bytes=wanted.min_free_bytes,
        search_seconds=wanted.search_seconds,
        count_seconds=wanted.count_milliseconds / 1000,
        upload_hours=wanted.upload_hours,
        verify_days=wanted.verify_days,
        verify_bytes_per_second=wanted.verify_bytes_per_second,
        bulk_ids=wanted.bulk_ids,
        bulk_days=wanted.bulk_days,
        undelete_days=wanted.undelete_days,
        quotas=Quotas(Quota(wanted.quota_objects, wanted.quota_bytes), special),
    )


def _place(wanted: RegionSettings) -> Path | Bucket:
    """Where a region's bytes are."""
    scheme, is_bucket, rest = wanted.blobs.partition("s3://")
    if scheme or not is_bucket:
        return Path(wanted.blobs)
    name, _, prefix = rest.partition("/")
    return Bucket(
        name=name,
        prefix=prefix,
        endpoint=wanted.s3.endpoint,
        region=wanted.s3.region,
        access_key_id=wanted.s3.access_key_id,
        secret_access_key=wanted.s3.secret_access_key,
        virtual=wanted.s3.addressing == "virtual",
        checksums=wanted.s3.checksum == "sha256",
    )


def databases(settings: Settings) -> list[tuple[str, str, tuple[str, ...]]]:
    """Every database: its name, where it is, and whose schema files it holds."""
    regions = settings.regions.items()
    return [
        ("identity", settings.identity.database, identity_plane.PACKAGES),
        *((name, region.database, region_plane.PACKAGES) for name, region in regions),
    ]


async def migrate_all(settings: Settings) -> list[tuple[str, Migration]]:
    """Bring every database up to date: what was applied, each with whose database it was."""
    applied = []
    for name, url, packages in databases(settings):
        db = await connect(url)
        try:
            applied += [(name, each) for each in await migrate(db, packages, clock=now_ms)]
        finally:
            await db.close()
    return applied


# ---- the application ------------------------------------------------------------------------


@asynccontextmanager
async def running(
    settings: Settings, *, clock: Clock = now_ms, entropy: Entropy = secrets.token_bytes
) -> AsyncIterator[ASGIApp]:
    """The whole service as an application, with everything it needs open."""
    disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="disk")
    asyncio.get_running_loop().set_default_executor(disk)
    async with AsyncExitStack() as stack:
        identity = await open_identity(settings, clock=clock, entropy=entropy)
        stack.push_async_callback(identity.db.close)
        regions: dict[str, Region] = {}
        for name, wanted in settings.regions.items():
            regions[name] = await open_region(settings, name, clock=clock, entropy=entropy)
            stack.push_async_callback(regions[name].close)
            if not regions[name].blobs.lock(alone=False):
                raise Conflict(f"{wanted.blobs}: another service is starting with this folder.")
        issuer = Issuer(identity)
        await issuer.trust()
        for chore in (_upkeep(issuer, regions.values()), *map(integrity.watch, regions.values())):
            stack.push_async_callback(_ended, asyncio.create_task(chore))
        yield _application(settings, issuer, regions)


def _application(settings: Settings, issuer: Issuer, regions: Mapping[str, Region]) -> ASGIApp:
    identity, base_url = issuer.identity, settings.base_url
    verifier = Verifier(identity.issuer, issuer, identity.clock)
    pages = console.app(
        identity, secure=settings.secure, base_url=base_url, regions=tuple(settings.regions)
    )
    app = Starlette(
        routes=[
            *region_http.routes(regions, verifier, REFERENCE_REGIONS),
            *identity_http.routes(issuer, base_url=base_url),
            *operations.routes(
                {"identity": identity.db, **{name: each.db for name, each in regions.items()}},
                metrics_networks=settings.server.metrics_networks,
            ),
            Mount("/console", app=pages),
        ],
        exception_handlers={
            SoundkeepError: web.handler(web.problem),
            HTTPException: web.handler(web.http_problem),
            Exception: web.handler(web.internal_problem),
        },
    )
    server = settings.server
    return web.Edge(
        app,
        trusted_proxies=server.trusted_proxies,
        log_requests=server.log_requests and server.log_level in ("debug", "info"),
    )


async def _ended(chore: asyncio.Task[None]) -> None:
    """End a chore, and wait until it has let go of what it used."""
    chore.cancel()
    await asyncio.wait([chore])


async def _upkeep(issuer: Issuer, regions: Iterable[Region]) -> None:
    """Every ten minutes, forget and remove what does not matter any more."""
    chores: list[Callable[[], Awaitable[None]]] = [issuer.forget]
    for region in regions:
        chores += [partial(retention.tidy, region), partial(links.forget, region)]
    while True:
        await asyncio.sleep(_UPKEEP_SECONDS)
        for chore in chores:
            try:
                await chore()
            except SoundkeepError as error:
                log.warning("upkeep", error=error.message)


# ---- the processes --------------------------------------------------------------------------


async def prepare(settings: Settings) -> list[Region]:
    """Migrate, and sweep every region while nobody else has it; keep the regions for their locks.

    Conflict where another service uses one of the folders.
    """
    await migrate_all(settings)
    regions = []
    for name, wanted in settings.regions.items():
        region = await open_region(settings, name)
        await check_blobs(region, wanted)
        if not region.blobs.lock(alone=True):
            raise Conflict(f"{wanted.blobs}: another service uses this folder: stop it first.")
        finished, discarded = await retention.at_start(region)
        if finished or discarded:
            log.info("swept", region=name, finished=finished, discarded=discarded)
        region.blobs.lock(alone=False)
        await region.db.close()
        regions.append(region)
    return regions


async def check_blobs(region: Region, wanted: RegionSettings) -> None:
    """Unavailable, with where it is and what to change, unless the store of bytes can be used."""
    try:
        await region.blobs.check()
    except SoundkeepError as error:
        await region.close()
        raise Unavailable(f"{wanted.blobs}: {error.message}") from None


def serve(settings: Settings, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until told to stop (SIGTERM or SIGINT): finish what is under way, then return.

    `ready` is called when nothing stands in the way any more, before the first worker starts.
    """
    journal.configure(settings.server.log_level)
    server = settings.server
    _must_be_free(server.host, server.port)
    _allow_files()
    if any(region.blobs.startswith("s3://") for region in settings.regions.values()):
        # The threads of the S3 client, which `prepare` starts, would be missing in forks.
        multiprocessing.set_start_method("spawn", force=True)
    held = asyncio.run(prepare(settings))
    ready()
    granian = Granian(
        "soundkeep",
        address=server.host,
        port=server.port,
        interface=Interfaces.ASGI,
        workers=server.workers,
        loop=Loops.uvloop,
        http=HTTPModes.auto,
        http1_settings=HTTP1Settings(max_buffer_size=_MAX_HEADERS),
        websockets=False,
        backlog=2048,
        log_enabled=False,
        ssl_cert=Path(server.tls_certificate) if server.tls_certificate else None,
        ssl_key=Path(server.tls_key) if server.tls_key else None,
        ssl_protocol_min=SSLProtocols.tls12,
        respawn_failed_workers=True,
        workers_kill_timeout=_STOP_SECONDS,
    )
    try:
        log.info("start", address=settings.base_url, workers=server.workers)
        granian.serve(target_loader=partial(_Worker, settings, os.getpid()), wrap_loader=False)
    finally:
        for region in held:
            asyncio.run(region.blobs.close())
        log.info("stop")


def _must_be_free(host: str, port: int) -> None:
    """Conflict where somebody listens there: workers share their port, so nothing else would."""
    try:
        with socket.create_server((host, port), family=_family(host)):
            return
    except OSError as error:
        raise Conflict(f"Cannot listen on {host}:{port}: {error.strerror}.") from None


def _allow_files() -> None:
    """As many open files as we may have: each download takes two, and the usual limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _Worker:
    """What a worker process serves: opens everything at the lifespan's start (ASGI 3)."""

    def __init__(self, settings: Settings, parent: int) -> None:
        self._settings = settings
        self._parent = parent
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            assert self._app is not None
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        journal.configure(self._settings.server.log_level)
        await receive()
        try:
            async with running(self._settings) as self._app:
                watch = asyncio.create_task(_end_with(self._parent))
                await send({"type": "lifespan.startup.complete"})
                await receive()
                watch.cancel()
        except SoundkeepError as error:
            log.error("start", error=error.message)  # noqa: TRY400  the sentence says it all
            await send({"type": "lifespan.startup.failed", "message": error.message})
            return
        await send({"type": "lifespan.shutdown.complete"})


async def _end_with(parent: int) -> None:
    """Stop this worker when the process that started it is gone."""
    while os.getppid() == parent:  # noqa: ASYNC110  no event tells of it
        await asyncio.sleep(_PARENT_SECONDS)
    with suppress(ProcessLookupError):
        os.kill(os.getpid(), signal.SIGTERM)
