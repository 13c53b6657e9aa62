"""A whole region whose bytes are in S3."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
from region_world import MIB, OBJECTS, START_MS, fault, names, opened

from soundkeep.region import retention

SIZE = 9 * MIB


@pytest.fixture
async def remote(database_url, seaweedfs, relay, tmp_path, anyio_backend):
    """A region on either engine, its bucket behind the relay."""
    bucket = seaweedfs.bucket(endpoint=f"http://127.0.0.1:{relay.port}")
    async with opened(database_url, tmp_path, bucket=bucket) as world:
        world.objects = lambda: seaweedfs.objects(bucket.prefix)
        yield world


async def test_an_upload_is_found_and_downloaded_whole_and_in_part(remote):
    content = os.urandom(SIZE)
    kept = await remote.uploaded(content, name="long.mp3")
    client = remote.client()
    found = await client.get(OBJECTS, params={"filter": "name==long.mp3"})
    whole = await client.get(f"{OBJECTS}/{kept['id']}/content")
    part = await client.get(
        f"{OBJECTS}/{kept['id']}/content", headers={"range": f"bytes={MIB}-{8 * MIB}"}
    )
    head = await client.head(f"{OBJECTS}/{kept['id']}/content")

    assert kept["checksum"] == hashlib.md5(content).hexdigest()
    assert names(found) == ["long.mp3"]
    assert (whole.status_code, whole.content) == (200, content)
    assert (part.status_code, part.content) == (206, content[MIB : 8 * MIB + 1])
    assert head.headers["content-length"] == str(SIZE)
    assert remote.objects() == {f"kept/{kept['id']}": SIZE}


async def test_an_empty_and_a_small_object_are_kept_too(remote):
    client = remote.client()
    for content in (b"", b"sound"):
        kept = await remote.uploaded(content)
        answer = await client.get(f"{OBJECTS}/{kept['id']}/content")
        assert (answer.status_code, answer.content) == (200, content)


async def test_an_upload_that_is_refused_leaves_no_object(remote):
    wrong = {"type": "callrecording", "checksum": "0" * 32}
    answer = await remote.upload(bytes(SIZE), wrong)

    assert answer.status_code == 400, answer.text
    assert remote.objects() == {}
    assert await remote.count("objects") == 0


async def test_a_lost_object_is_told_before_the_first_byte_and_by_doctor(remote):
    kept = await remote.uploaded(b"sound")
    await remote.region.blobs.discard([kept["id"]])
    answer = await remote.client().get(f"{OBJECTS}/{kept['id']}/content")

    assert fault(answer)[:2] == (503, "unavailable")
    assert await retention.survey(remote.region) == (1, [kept["id"]])


async def test_a_sweep_removes_what_no_row_names(remote):
    """As when a service was killed between the object and its row."""
    kept = await remote.uploaded(b"sound")
    incoming = remote.region.blobs.incoming(orphan := f"{kept['id'][:-4]}beef")
    await incoming.write(b"orphan")
    await incoming.close()
    before = sorted(remote.objects())
    finished, discarded = await retention.sweep(remote.region, after_ms=START_MS, before_ms=2**62)

    assert before == sorted([f"kept/{kept['id']}", f"kept/{orphan}"])
    assert (finished, discarded) == (1, 1)
    assert list(remote.objects()) == [f"kept/{kept['id']}"]


# ---- memory

MEASURE = """
import asyncio, os, secrets, sys
from soundkeep.region.blobs import Bucket
from soundkeep.region.s3blobs import S3Blobs

KEY, MIB = "019b76da-a800-7a95-815c-651e21c61677", 1024 * 1024
endpoint, prefix, key_id, secret, name, size = sys.argv[1:]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") // MIB

async def main():
    most, blobs = 0, S3Blobs(
        Bucket(name=name, prefix=prefix, endpoint=endpoint, access_key_id=key_id,
               secret_access_key=secret),
        entropy=secrets.token_bytes)
    await blobs.check()
    before, chunk = resident(), os.urandom(100_000)
    incoming = blobs.incoming(KEY)
    for _ in range(int(size) // len(chunk)):
        await incoming.write(bytes(chunk))
        most = max(most, resident())
    digests = await incoming.close()
    print(digests.size, most - before)
    most, seen = 0, 0
    async for piece in await blobs.read(KEY, 0, digests.size):
        seen += len(piece)
        most = max(most, resident())
    print(seen, most - before)

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_long_upload_and_its_download_take_little_memory(seaweedfs):
    bucket, size = seaweedfs.bucket(), 300_000_000
    facts = (bucket.prefix, bucket.access_key_id, bucket.secret_access_key, bucket.name, str(size))
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, bucket.endpoint, *facts],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (kept, up_mib), (seen, down_mib) = (line.split() for line in found.stdout.splitlines())

    assert (kept, seen) == (str(size), str(size))
    assert int(up_mib) < 60
    assert int(down_mib) < 60
