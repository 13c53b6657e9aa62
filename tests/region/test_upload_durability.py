"""Uploads when things go wrong: full disks, failing rows, crashes of clients, many at once."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from blob_stores import everything_unsettled
from region_world import (
    CALL,
    CONTENT,
    FORM,
    METADATA,
    MIB,
    NOTHING,
    OBJECTS,
    World,
    fault,
    in_pieces,
    multipart,
    opened,
)

from soundkeep.foundation.database import Connection
from soundkeep.foundation.errors import Unavailable
from soundkeep.region import intake, localblobs, retention
from soundkeep.region.localblobs import LocalBlobs

ONE = {"files": 1, "objects": 1, "buckets": 1, "audit": 1}


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that other tasks bring about."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  no event tells of it
            await asyncio.sleep(0.002)


@asynccontextmanager
async def held_up(world: World) -> AsyncIterator[None]:
    """While this is entered, no transaction of the region can commit."""
    own = await world._own()
    async with own.transaction() as tx:
        if own.engine == "postgresql":
            await tx.run("LOCK TABLE objects IN EXCLUSIVE MODE")
        yield


async def refuse(world: World, name: str) -> None:
    """Let the database refuse the row of any object of this name."""
    if world.region.db.engine == "postgresql":
        await world.script(f"ALTER TABLE objects ADD CONSTRAINT no CHECK (name <> '{name}')")
        return
    await world.script(
        f"""
        CREATE TRIGGER no BEFORE INSERT ON objects WHEN NEW.name = '{name}'
        BEGIN SELECT RAISE(ABORT, 'refused'); END
        """
    )


# ---- a disk that fails


class FailingDisk:
    """The operating system as `blobs` sees it, one of whose calls fails."""

    def __init__(self, call: str, number: int, code: int) -> None:
        self._call = call
        self._left = number
        self._code = code

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name != self._call:
            return real

        def call(*args, **more):
            self._left -= 1
            if self._left == 0:
                raise OSError(self._code, os.strerror(self._code))
            return real(*args, **more)

        return call


STEPS = {
    "make the file": ("open", 1),
    "write the first bytes": ("write", 1),
    "write what follows": ("write", 2),
    "write the rest at the end": ("write", 3),
    "sync the file": ("fsync", 1),
    "open the folder of what comes in": ("open", 2),
    "sync the folder of what comes in": ("fsync", 2),
    "link": ("link", 1),
    "sync the folder of what is kept": ("fsync", 3),
}


@pytest.mark.parametrize(
    ("code", "status"), [(errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EIO, 503)]
)
@pytest.mark.parametrize("step", STEPS)
async def test_a_disk_that_fails_at_any_step_leaves_nothing(local, monkeypatch, step, code, status):
    content = multipart((METADATA, json.dumps(CALL)), (CONTENT, b"x" * 2 * MIB))
    client = local.client()
    with monkeypatch.context() as patch:
        disk = FailingDisk(*STEPS[step], code)
        for module in (localblobs, intake):
            patch.setattr(module, "os", disk)
        answer = await client.post(OBJECTS, content=in_pieces(content, 700_000), headers=FORM)
    after = await local.everything()
    again = await local.upload()

    assert fault(answer)[0] == status
    assert after == NOTHING
    assert again.status_code == 201


async def test_a_disk_that_takes_little_at_a_time_gets_everything(local, monkeypatch):
    class Reluctant(FailingDisk):
        def __init__(self) -> None:
            pass

        def __getattr__(self, name: str) -> object:
            if name == "write":
                return lambda file, data: os.write(file, data[: len(data) // 2 + 1])
            return getattr(os, name)

    content = os.urandom(MIB + 12_345)
    monkeypatch.setattr("soundkeep.region.localblobs.os", Reluctant())
    made = await local.uploaded(content)

    assert (await local.client().get(f"{OBJECTS}/{made['id']}/content")).content == content


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 2 MiB, where we may mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    ) if os.geteuid() == 0 else None  # fmt: skip
    if made is None or made.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_uploads_fill_a_real_disk_and_what_was_acknowledged_is_whole(tiny_disk, tmp_path):
    async with opened(str(tmp_path / "region.sqlite"), tiny_disk / "blobs") as world:
        client = world.client()
        kept, statuses = {}, []
        for number in range(8):
            content = os.urandom(400_000 + number)
            answer = await world.upload(content, client=client)
            statuses.append(answer.status_code)
            if answer.status_code == 201:
                kept[answer.json()["id"]] = content
        back = {key: (await client.get(f"{OBJECTS}/{key}/content")).content for key in kept}

        assert statuses == [201] * 5 + [507] * 3
        assert back == kept
        assert await world.everything() == {"files": 5, "objects": 5, "buckets": 5, "audit": 5}
        assert world.files("incoming") == []


async def test_a_database_on_a_full_disk_keeps_nothing_and_recovers(tiny_disk, folder):
    async with opened(str(tiny_disk / "region.sqlite"), folder) as world:
        await world.uploaded()
        filler = tiny_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        tags = [{"key": "note", "value": "x" * 60_000}]
        refused = await world.upload(metadata={**CALL, "tags": tags})
        while_full = await world.everything()
        filler.unlink()
        again = await world.upload(metadata={**CALL, "tags": tags})

        assert fault(refused) == (507, "storage_full", None)
        assert while_full == ONE
        assert again.status_code == 201
        assert await world.broken() is None


# ---- a database that fails


async def test_a_full_sqlite_keeps_nothing_and_recovers(local):
    writer = local.region.db._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    metadata = {**CALL, "tags": [{"key": "note", "value": "x" * 60_000}]}
    refused = await local.upload(metadata=metadata)
    while_full = await local.everything()
    writer.execute("PRAGMA max_page_count = 1000000").fetchall()

    assert fault(refused) == (507, "storage_full", None)
    assert while_full == NOTHING
    assert (await local.upload(metadata=metadata)).status_code == 201


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.parametrize("when", ["NOT DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"])
async def test_a_full_postgresql_keeps_nothing_and_recovers(world, when):
    """The server says `disk_full` at the insert, or only at the commit."""
    await world.script(
        f"""
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$;
        CREATE CONSTRAINT TRIGGER full_disk AFTER INSERT ON objects {when}
        FOR EACH ROW EXECUTE FUNCTION full_disk();
        """
    )
    refused = await world.upload()
    while_full = await world.everything()
    await world.script("DROP TRIGGER full_disk ON objects")

    assert fault(refused) == (507, "storage_full", None)
    assert while_full == NOTHING
    assert (await world.upload()).status_code == 201


async def test_bytes_whose_row_is_refused_are_discarded(world):
    await refuse(world, "poison")
    refused = await world.upload(name="poison")
    while_refused = await world.everything()

    assert fault(refused) == (500, "internal", None)
    assert while_refused == NOTHING
    assert (await world.upload(name="a.mp3")).status_code == 201
    assert await world.broken() is None


async def test_a_commit_that_is_refused_leaves_nothing(local):
    local.region.db._writer.set_commit_hook(lambda: True)
    refused = await local.upload()
    while_refused = await local.everything()
    local.region.db._writer.set_commit_hook(None)

    assert refused.status_code == 500
    assert while_refused == NOTHING
    assert (await local.upload()).status_code == 201


class Unreliable:
    """A database at the far end of a bad line: the answer to the first commit is lost."""

    def __init__(self, db, *, recovers: bool) -> None:
        self._db = db
        self._recovers = recovers
        self._lost = False
        self.engine = db.engine

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self._db.transaction() as tx:
            yield tx
        if not (self._lost and self._recovers):
            self._lost = True
            raise Unavailable("The line was cut.")

    async def one(self, sql, params):
        return await self._db.one(sql, params)

    async def all(self, sql, params):
        return await self._db.all(sql, params)

    async def scan(self, sql, params):
        if self._lost and not self._recovers:
            raise Unavailable("The line was cut.")
        return await self._db.scan(sql, params)


class Late(Unreliable):
    """The same, where the first commit happens some time after the failure."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        if self._lost:
            async with self._db.transaction() as tx:
                yield tx
            return
        self._lost = True
        writing = self._db.transaction()
        yield await writing.__aenter__()

        async def commit() -> None:
            await asyncio.sleep(0.3)
            await writing.__aexit__(None, None, None)

        self.committing = asyncio.create_task(commit())
        raise Unavailable("The line was cut.")


async def test_a_commit_whose_answer_was_lost_keeps_its_bytes(world):
    """The caller is told of a failure, yet the row is there: so must be what it names."""
    region = dataclasses.replace(world.region, db=Unreliable(world.region.db, recovers=True))
    answer = await world.upload(b"sound", client=world.client(region))
    (found,) = (await world.client().get(OBJECTS)).json()["content"]
    content = await world.client().get(f"{OBJECTS}/{found['id']}/content")

    assert fault(answer)[0] == 503
    assert content.content == b"sound"
    assert await everything_unsettled(world.region.blobs) == []
    assert await world.everything() == ONE


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_commit_that_happens_after_the_failure_keeps_its_bytes(world):
    line = Late(world.region.db, recovers=True)
    region = dataclasses.replace(world.region, db=line)
    answer = await world.upload(b"sound", client=world.client(region))
    await line.committing
    (found,) = (await world.client().get(OBJECTS)).json()["content"]
    content = await world.client().get(f"{OBJECTS}/{found['id']}/content")

    assert fault(answer)[0] == 503
    assert content.content == b"sound"
    assert await world.everything() == ONE


async def test_what_cannot_be_settled_now_is_left_to_the_next_sweep(world):
    region = dataclasses.replace(world.region, db=Unreliable(world.region.db, recovers=False))
    answer = await world.upload(b"sound", client=world.client(region))
    left = await everything_unsettled(world.region.blobs)
    swept = await retention.sweep(world.region)

    assert fault(answer)[0] == 503
    assert len(left) == 1
    assert swept == (1, 0)
    assert await world.everything() == ONE


class Forgetful(LocalBlobs):
    """A folder that cannot be tidied."""

    async def settle(self, keys):
        raise Unavailable("The disk went away.")


@pytest.mark.parametrize("size", [5, 300_000])
async def test_an_upload_is_kept_even_where_it_cannot_be_settled(local, size):
    blobs, sound = Forgetful(local.folder, min_free_bytes=0), os.urandom(size)
    region = dataclasses.replace(local.region, blobs=blobs)
    made = await local.uploaded(sound, client=local.client(region))
    await blobs.close()
    swept = await retention.sweep(local.region)
    content = await local.client().get(f"{OBJECTS}/{made['id']}/content")

    assert swept == (1, 0)
    assert content.content == sound


# ---- many at once


@asynccontextmanager
async def counted_commits(world: World) -> AsyncIterator[Callable]:
    """How many transactions brought the objects that are there."""
    commits: list[int] = []
    if world.region.db.engine == "sqlite":
        world.region.db._writer.set_commit_hook(lambda: bool(commits.append(1)))

    async def count() -> int:
        if world.region.db.engine == "sqlite":
            return len(commits)
        return (await world.rows("SELECT count(DISTINCT xmin::text) FROM objects"))[0][0]

    yield count
    if world.region.db.engine == "sqlite":
        world.region.db._writer.set_commit_hook(None)


async def together(world: World, names: list[str]) -> list[asyncio.Task]:
    """Uploads of these names that wait for one batch, behind one of their own."""
    client = world.client()
    waiting = world.region.arrivals._waiting
    async with held_up(world):
        first = asyncio.create_task(world.upload(name="first", client=client))
        await until(lambda: world.region.arrivals._runner is not None and not waiting)
        tasks = [
            asyncio.create_task(world.upload(each.encode(), name=each, client=client))
            for each in names
        ]
        await until(lambda: len(waiting) == len(names))
    return [first, *tasks]


async def test_what_arrives_during_a_commit_shares_the_next_one(world):
    async with counted_commits(world) as count:
        tasks = await together(world, [f"{number}.mp3" for number in range(49)])
        answers = await asyncio.gather(*tasks)
        commits = await count()

    assert {each.status_code for each in answers} == {201}
    assert commits == 2
    assert await world.everything() == {"files": 50, "objects": 50, "buckets": 50, "audit": 50}
    assert await world.broken() is None


async def test_one_poisoned_upload_does_not_spoil_those_beside_it(world):
    await refuse(world, "poison")
    tasks = await together(world, ["a", "b", "poison", "c", "d"])
    answers = await asyncio.gather(*tasks)
    statuses = [each.status_code for each in answers]
    content = [
        (await world.client().get(f"{OBJECTS}/{each.json()['id']}/content")).content
        for each in answers
        if each.status_code == 201
    ]

    assert statuses == [201, 201, 201, 500, 201, 201]
    assert content == [b"sound", b"a", b"b", b"c", b"d"]
    assert await world.everything() == {"files": 5, "objects": 5, "buckets": 5, "audit": 5}
    assert world.files("incoming") == []
    assert await world.broken() is None


async def test_two_processes_upload_into_one_region(world):
    """Each with its own connections: the audit chain stays one."""
    async with opened(world.url, world.folder) as other:
        clients = [world.client(), other.bearing(f"Bearer {world.token()}")]
        other.signer.key = world.signer.key
        metadata = {**CALL, "bucketId": "shared"}
        answers = await asyncio.gather(
            *(
                world.upload(bytes([number]), client=clients[number % 2], metadata=metadata)
                for number in range(20)
            )
        )

    assert {each.status_code for each in answers} == {201}
    assert await world.everything() == {"files": 20, "objects": 20, "buckets": 1, "audit": 20}
    assert await world.broken() is None


# ---- clients that go away


async def test_an_upload_cancelled_in_its_middle_leaves_nothing(local):
    body = multipart((METADATA, json.dumps(CALL)), (CONTENT, os.urandom(3 * MIB)))

    async def stalling():
        yield body[: 2 * MIB]
        await asyncio.Event().wait()

    upload = asyncio.create_task(local.client().post(OBJECTS, content=stalling(), headers=FORM))
    await until(lambda: len(local.files("incoming")) == 1)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    assert await local.everything() == NOTHING


@pytest.mark.parametrize("times", [1, 3])
async def test_an_upload_cancelled_in_its_commit_is_wholly_kept(world, times):
    async with held_up(world):
        upload = asyncio.create_task(world.upload(b"sound"))
        await until(lambda: world.region.arrivals._runner is not None)
        for _ in range(times):
            upload.cancel()
            await asyncio.sleep(0.01)
        assert not upload.done()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await world.idle()
    (found,) = (await world.client().get(OBJECTS)).json()["content"]
    content = await world.client().get(f"{OBJECTS}/{found['id']}/content")

    assert content.content == b"sound"
    assert await world.everything() == ONE
    assert world.files("incoming") == []


async def test_a_cancelled_upload_whose_row_is_refused_leaves_nothing(world):
    await refuse(world, "poison")
    async with held_up(world):
        upload = asyncio.create_task(world.upload(name="poison"))
        await until(lambda: world.region.arrivals._runner is not None)
        upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    assert await world.everything() == NOTHING
