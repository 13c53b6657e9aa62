"""Journals of small bodies: one sync for many, and what a power cut took comes back."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from blob_stores import arrive, everything_unsettled, keep, new_key, read
from region_world import (
    BASE,
    CALL,
    CONTENT,
    FORM,
    METADATA,
    NOTHING,
    OBJECTS,
    an_object,
    fault,
    multipart,
)

from soundkeep.foundation.errors import Unavailable
from soundkeep.region import bulk, catalog, intake, localblobs, retention
from soundkeep.region.localblobs import LocalBlobs

SOUND = b"sound"


@pytest.fixture(params=["one sync", "file by file"])
def syncs(request, monkeypatch):
    """Both ways to make files durable."""
    if request.param == "file by file":
        monkeypatch.setattr(intake, "_SYNCFS", None)
    return request.param


@pytest.fixture
async def blobs(folder, anyio_backend):
    blobs = LocalBlobs(folder, min_free_bytes=0)
    yield blobs
    await blobs.close()


@pytest.fixture
async def after_a_cut(blobs, folder, tmp_path):
    """A function: the store as another process finds it, whose names nobody holds any more."""
    opened = []

    def cut() -> tuple[LocalBlobs, Path]:
        other = tmp_path / f"cut-{len(opened)}"
        shutil.copytree(folder, other)
        opened.append(LocalBlobs(other, min_free_bytes=0))
        return opened[-1], other

    yield cut
    for each in opened:
        await each.close()


def journals(folder: Path) -> list[Path]:
    return sorted((folder / "intake").iterdir())


def kept(folder: Path, key: str) -> Path:
    return folder / "kept" / key[:7] / key


class Disk:
    """The operating system as the journal sees it: counts a call, or lets it fail from now on."""

    def __init__(self, call: str, code: int = 0) -> None:
        self._call = call
        self._code = code
        self.count = 0

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name != self._call:
            return real

        def call(*args, **more):
            self.count += 1
            if self._code:
                raise OSError(self._code, os.strerror(self._code))
            return real(*args, **more)

        return call


# ---- one sync for many


async def test_small_bodies_that_arrive_together_share_a_sync(blobs, monkeypatch):
    disk = Disk("fdatasync")
    monkeypatch.setattr(intake, "os", disk)
    contents = {new_key(): os.urandom(1000 + number) for number in range(30)}
    await asyncio.gather(*(arrive(blobs, content, key) for key, content in contents.items()))
    back = {key: await read(blobs, key, 0, len(content)) for key, content in contents.items()}

    assert disk.count in (1, 2)
    assert back == contents


async def test_a_full_journal_goes_once_its_files_are_synced(folder, monkeypatch, syncs):
    monkeypatch.setattr(intake, "_JOURNAL_SIZE", 10_000)
    blobs = LocalBlobs(folder, min_free_bytes=0)
    contents = [os.urandom(4000) for _ in range(20)]
    keys = [await keep(blobs, content) for content in contents]
    while_open = len(journals(folder))
    await blobs.close()
    again = LocalBlobs(folder, min_free_bytes=0)
    back = [await read(again, key, 0, 4000) for key in keys]
    left = await everything_unsettled(again)
    await again.close()

    assert 1 <= while_open <= 3
    assert journals(folder) == []
    assert back == contents
    assert left == []


async def test_uploads_wait_only_where_the_disk_is_far_behind(folder, monkeypatch):
    monkeypatch.setattr(intake, "_JOURNAL_SIZE", 1)
    blobs, may_end = LocalBlobs(folder, min_free_bytes=0), threading.Event()
    monkeypatch.setattr(blobs.intake, "_sync", lambda *_: may_end.wait(10))
    keys = [await keep(blobs, SOUND) for _ in range(2)]
    third = asyncio.create_task(keep(blobs, SOUND))
    done, _ = await asyncio.wait([third], timeout=0.1)
    may_end.set()
    keys.append(await third)
    await blobs.close()

    assert not done
    assert [kept(folder, key).read_bytes() for key in keys] == [SOUND] * 3
    assert journals(folder) == []


async def test_what_is_deleted_does_not_linger_in_a_journal(local, folder):
    made = await local.uploaded(b"a secret that was deleted")
    before = b"".join(each.read_bytes() for each in journals(folder))
    await retention.purge(local.region, local.claims(), [made["id"]])

    await retention.tidy(local.region)
    left = b"".join(each.read_bytes() for each in folder.rglob("*") if each.is_file())

    assert b"a secret that was deleted" in before
    assert b"a secret that was deleted" not in left
    assert journals(folder) == []


async def test_bodies_that_come_while_a_journal_ends_are_durable(blobs, folder):
    async def one(number: int) -> str:
        key = await keep(blobs, SOUND)
        if number % 5 == 0:
            await blobs.rest()
        return key

    keys = await asyncio.gather(*(one(number) for number in range(40)))
    await blobs.rest()

    assert journals(folder) == []
    assert [await read(blobs, key, 0, len(SOUND)) for key in keys] == [SOUND] * 40


async def test_a_journal_whose_files_cannot_be_synced_stays(folder, monkeypatch, syncs):
    blobs = LocalBlobs(folder, min_free_bytes=0)
    key = await keep(blobs, SOUND)
    with monkeypatch.context() as patch:
        call = "sync_system" if syncs == "one sync" else "sync_files"
        patch.setattr(localblobs, call, lambda _: os.close(10**6))
        await blobs.close()
    again = LocalBlobs(folder, min_free_bytes=0)
    found = await everything_unsettled(again)
    await again.settle(found)
    await again.close()

    assert found == [key]
    assert journals(folder) == []


def test_a_sync_of_what_is_no_file_is_an_error():
    with pytest.raises(OSError):
        intake.sync_system(10**6) or os.close(10**6)


async def test_files_that_are_gone_hold_up_no_journal(blobs, folder, syncs):
    keys = [await keep(blobs, SOUND) for _ in range(3)]
    await blobs.discard(keys[:2])
    await blobs.rest()

    assert journals(folder) == []
    assert await read(blobs, keys[2], 0, 5) == SOUND


async def test_a_journal_stays_until_the_fate_of_all_it_holds_is_decided(blobs, folder):
    settled, discarded, abandoned = new_key(), new_key(), new_key()
    await arrive(blobs, SOUND, settled)
    await arrive(blobs, SOUND, discarded)
    incoming = blobs.incoming(abandoned)
    await incoming.write(SOUND)
    await incoming.close()
    steps = [
        blobs.rest(),
        blobs.settle([settled]),
        blobs.discard([discarded]),
        incoming.abandon(),
    ]
    left = []
    for step in steps:
        await step
        left.append(len(journals(folder)))
    await blobs.rest()

    assert left[:3] == [1, 1, 1]
    assert journals(folder) == []
    assert kept(folder, settled).read_bytes() == SOUND
    assert not kept(folder, discarded).exists()
    assert not kept(folder, abandoned).exists()


async def test_a_small_body_is_in_the_journal_before_it_has_a_file(folder, monkeypatch):
    """Otherwise a killed process would leave a file that nothing tells of."""
    blobs, key, seen = LocalBlobs(folder, min_free_bytes=0), new_key(), []

    def place(small: intake.Small) -> None:
        seen.append(journals(folder)[0].read_bytes().count(small.key.encode()))
        raise OSError(errno.EIO, "killed here")

    monkeypatch.setattr(blobs.intake, "_place", place)
    with pytest.raises(Unavailable):
        await arrive(blobs, SOUND, key)
    await blobs.close()

    assert seen == [1]
    assert not kept(folder, key).exists()


async def test_what_was_open_when_a_service_stopped_is_told_at_the_next_start(folder):
    blobs, key = LocalBlobs(folder, min_free_bytes=0), new_key()
    await arrive(blobs, SOUND, key)
    await blobs.close()
    again = LocalBlobs(folder, min_free_bytes=0)
    told = await everything_unsettled(again)
    await again.discard(told)
    await again.close()

    assert told == [key]
    assert not kept(folder, key).exists()
    assert journals(folder) == []


# ---- what a power cut takes

DAMAGE = {
    "nothing": lambda file: None,
    "the name": Path.unlink,
    "all bytes": lambda file: os.truncate(file, 0),
    "the last bytes": lambda file: os.truncate(file, 3),
    "what the bytes were": lambda file: file.write_bytes(bytes(5)),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("settled", [True, False])
async def test_what_a_power_cut_took_comes_back(blobs, after_a_cut, what, settled):
    key = new_key()
    await arrive(blobs, SOUND, key)
    if settled:
        await blobs.settle([key])
    found, folder = after_a_cut()
    DAMAGE[what](kept(folder, key))
    told = await everything_unsettled(found)
    await found.settle(told)

    assert told == [key]
    assert await read(found, key, 0, 5) == SOUND
    assert kept(folder, key).stat().st_mode & 0o077 == 0
    assert await everything_unsettled(found) == []
    assert journals(folder) == []


async def test_what_no_row_names_goes_with_its_journal(blobs, after_a_cut):
    gone, stays = await keep(blobs, SOUND), await keep(blobs, b"music")
    found, folder = after_a_cut()
    await everything_unsettled(found)
    await found.discard([gone])
    half = journals(folder)
    await found.settle([stays])

    assert len(half) == 1
    assert journals(folder) == []
    assert not kept(folder, gone).exists()
    assert await read(found, stays, 0, 5) == b"music"


async def test_what_a_killed_process_left_is_decided_while_others_go_on(local, folder):
    """Otherwise its journal would keep the bytes of what is deleted until the next start."""
    dead = LocalBlobs(folder, min_free_bytes=0)
    committed, lost = new_key(), new_key()
    for key in (committed, lost):
        await arrive(dead, b"a secret of " + key.encode(), key)
    await catalog.load(local.region, [an_object(committed, b"a secret of " + committed.encode())])
    await dead.close()  # as the kernel closes what a killed process had open
    alive = await local.uploaded(b"of another process")
    kept(folder, committed).unlink()

    local.clock.now_ms = time.time_ns() // 1_000_000 + 120_000
    await retention.tidy(local.region)
    texts = [each.read_bytes() for each in (folder / "intake").iterdir()]

    assert kept(folder, committed).read_bytes() == b"a secret of " + committed.encode()
    assert not kept(folder, lost).exists()
    assert kept(folder, alive["id"]).read_bytes() == b"of another process"
    assert texts == []


async def test_what_could_not_be_decided_is_told_again(blobs, after_a_cut):
    key = new_key()
    await arrive(blobs, SOUND, key)
    found, folder = after_a_cut()
    told = [await found.abandoned(before_ms=2**62) for _ in range(2)]
    await found.discard([key])

    assert told == [[key], [key]]
    assert await found.abandoned(before_ms=2**62) == []
    assert journals(folder) == []


async def test_an_error_of_the_disk_is_told_to_each_journal(folder, monkeypatch):
    """The system tells it once for each open file: one file for all would hear of it too late."""
    monkeypatch.setattr(intake, "_JOURNAL_SIZE", 1)
    asked = []
    monkeypatch.setattr(intake, "_SYNCFS", lambda file: asked.append(os.fstat(file).st_ino) or 0)
    blobs = LocalBlobs(folder, min_free_bytes=0)
    files = []
    for _ in range(3):
        key = new_key()
        await arrive(blobs, SOUND, key)
        files += [each.stat().st_ino for each in journals(folder)]
        await blobs.settle([key])
        await blobs.rest()
    await blobs.close()

    assert asked == files
    assert (folder / "lock").stat().st_ino not in asked


async def test_a_journal_in_use_is_nobody_elses(blobs, folder):
    await keep(blobs, SOUND)
    other = LocalBlobs(folder, min_free_bytes=0)
    found = await everything_unsettled(other)
    await other.close()

    assert found == []
    assert len(journals(folder)) == 1


async def test_alien_files_among_the_journals_are_left_alone(blobs, folder):
    (folder / "intake/README").write_text("mine")
    (folder / "intake/lost+found").mkdir()
    (folder / "intake" / ("0" * 32)).touch()

    assert await everything_unsettled(blobs) == []
    assert [each.name for each in journals(folder)] == ["README", "lost+found"]


async def test_a_region_gets_back_what_a_power_cut_took(local, tmp_path):
    content = os.urandom(28_000)
    made = await local.uploaded(content)
    other = tmp_path / "cut"
    shutil.copytree(local.folder, other)
    kept(other, made["id"]).unlink()
    blobs = LocalBlobs(other, min_free_bytes=0)
    cut = dataclasses.replace(local.region, blobs=blobs)
    swept = await retention.sweep(cut)
    answer = await local.client(cut).get(f"{OBJECTS}/{made['id']}/content")
    await blobs.close()

    assert swept == (1, 0)
    assert answer.content == content


# ---- torn and forged records


async def test_what_only_an_archive_holds_outlives_its_journal(local, tmp_path):
    made = await local.uploaded(SOUND)
    job = await bulk.start(local.region, local.claims(), bulk.Wanted(ids=[made["id"]]))
    await retention.purge(local.region, local.claims(), [made["id"]])
    after = shutil.copytree(local.folder, tmp_path / "after")
    blobs = LocalBlobs(after, min_free_bytes=0)
    region = dataclasses.replace(local.region, blobs=blobs)

    await retention.at_start(region)
    archive = await local.client(region).get(f"{BASE}/bulk/download/{job.zip_name}")
    await blobs.close()

    assert archive.status_code == 200


def left(path: Path) -> dict[str, bytes]:
    found = intake.Left.found(path)
    bodies = {key: found.body(key) for key in found.keys}
    found.close()
    return bodies


def written(folder: Path, *batches: list[tuple[str, bytes]]) -> Path:
    folder.mkdir(exist_ok=True)
    journal = intake.Journal(folder)
    for batch in batches:
        journal.add(
            [intake.Small(key, body, hashlib.sha256(body).hexdigest()) for key, body in batch]
        )
    journal.let_go()
    return journal.path


def test_a_journal_tells_what_was_added(tmp_path):
    bodies = {new_key(): os.urandom(size) for size in (0, 1, 70_000)}
    path = written(tmp_path, list(bodies.items())[:1], list(bodies.items())[1:])

    assert left(path) == bodies


def test_a_torn_record_and_what_follows_it_is_passed_over(tmp_path):
    first, second = (new_key(), b"first"), (new_key(), b"other")
    path = written(tmp_path, [first], [second])
    whole = path.read_bytes()
    half = (len(whole) + 32) // 2
    for size in range(32, len(whole)):
        torn = tmp_path / f"{size:032x}"
        torn.write_bytes(whole[:size])

        assert left(torn) == (dict([first]) if size >= half else {})


@pytest.mark.parametrize("at", [0, 31, 32, 40, 60, 90, 120, -1])
def test_a_record_that_was_changed_is_passed_over(tmp_path, at):
    path = written(tmp_path, [(new_key(), SOUND)])
    changed = bytearray(path.read_bytes())
    changed[at] ^= 1
    path.write_bytes(changed)

    assert left(path) == {}


def test_a_body_that_looks_like_records_is_not_taken_for_them(tmp_path):
    """Not even where what was before it was torn off at the right place."""
    forged = written(tmp_path / "forged", [(new_key(), b"forged")]).read_bytes()
    key = new_key()
    path = written(tmp_path, [(key, forged[32:])], [(key, SOUND)])
    whole = path.read_bytes()
    path.write_bytes(whole[:32] + forged[32:] + whole[32 + len(forged) - 32 :])

    assert left(path) == {}


# ---- a disk that fails


@pytest.mark.parametrize("call", ["open", "write", "fdatasync", "fsync"])
@pytest.mark.parametrize(("code", "status"), [(errno.ENOSPC, 507), (errno.EIO, 503)])
async def test_a_journal_that_cannot_be_written_keeps_nothing(
    local, monkeypatch, call, code, status
):
    content = multipart((METADATA, json.dumps(CALL)), (CONTENT, SOUND))
    with monkeypatch.context() as patch:
        patch.setattr(intake, "os", Disk(call, code))
        answer = await local.client().post(OBJECTS, content=content, headers=FORM)
    after = await local.everything()
    again = await local.uploaded(b"again")

    assert fault(answer)[0] == status
    assert after == NOTHING
    assert (await local.client().get(f"{OBJECTS}/{again['id']}/content")).content == b"again"


async def test_one_body_without_a_place_spoils_none_beside_it(blobs):
    taken = new_key()
    await arrive(blobs, b"first", taken)
    keys = [new_key(), taken, new_key()]
    outcomes = await asyncio.gather(
        *(arrive(blobs, SOUND, key) for key in keys), return_exceptions=True
    )

    assert isinstance(outcomes[1], Unavailable)
    assert [await read(blobs, key, 0, 5) for key in keys] == [SOUND, b"first", SOUND]
