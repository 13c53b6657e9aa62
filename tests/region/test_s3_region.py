"""A whole region whose bytes are in S3."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from blob_stores import HOUR, arrive, new_key, now_ms
from region_world import BASE, MIB, OBJECTS, fault, names, opened

from s3_servers import BUCKET
from soundkeep.foundation.claims import Access
from soundkeep.region import integrity, retention

SIZE = 9 * MIB
UPLOADS = f"{BASE}/uploads"
BULK = f"{BASE}/bulk/download"


@pytest.fixture
async def remote(database_url, seaweedfs, relay, tmp_path, anyio_backend):
    """A region on either engine, its bucket behind the relay."""
    bucket = seaweedfs.bucket(endpoint=f"http://127.0.0.1:{relay.port}")
    async with opened(database_url, tmp_path, bucket=bucket) as world:
        world.prefix = bucket.prefix
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


async def test_an_upload_in_many_requests_becomes_one_object(remote):
    """Each ends with pieces of its own in the store; a client that left goes on where it was."""
    content, client = os.urandom(SIZE), remote.client()
    tus = {"tus-resumable": "1.0.0"}
    named = {"upload-metadata": f"type {base64.b64encode(b'callrecording').decode()}"}
    begun = await client.post(UPLOADS, headers={**tus, **named, "upload-length": str(SIZE)})
    where, at, answers = begun.headers["location"], 0, []
    for end in (5, MIB, 8 * MIB + 6, SIZE):
        sent = {"upload-offset": str(at), "content-type": "application/offset+octet-stream"}
        answer = await client.patch(where, headers={**tus, **sent}, content=content[at:end])
        answers.append(answer.status_code)
        at = end
    kept_at = answer.headers["content-location"]
    answer = await client.get(f"{kept_at}/content")

    assert (begun.status_code, answers) == (201, [204] * 4)
    assert answer.content == content
    assert remote.objects() == {f"kept/{kept_at.rsplit('/', 1)[1]}": SIZE}


async def test_the_same_bytes_are_one_object_and_go_with_the_last_that_holds_them(remote):
    first, second = [await remote.uploaded(b"sound") for _ in range(2)]
    kept = remote.objects()
    await retention.purge(remote.region, remote.claims(), [first["id"]])
    await retention.remove_discarded(remote.region)
    answer = await remote.client().get(f"{OBJECTS}/{second['id']}/content")
    await retention.purge(remote.region, remote.claims(), [second["id"]])
    await retention.remove_discarded(remote.region)

    assert kept == {f"kept/{first['id']}": 5}
    assert answer.content == b"sound"
    assert remote.objects() == {}


async def test_rotten_bytes_are_found(remote, seaweedfs):
    kept = await remote.uploaded(b"sound")
    seaweedfs.replace(f"{remote.prefix}/kept/{kept['id']}", b"noise")
    remote.clock.advance(seconds=1)
    found = [each async for each in integrity.verify(remote.region, before_ms=remote.clock())]

    assert [each.sound for each in found] == [False]


async def test_an_object_returns_with_its_bytes(remote, seaweedfs):
    kept, other = await remote.uploaded(b"sound"), await remote.uploaded(b"other")
    path, client, found = f"{remote.prefix}/kept/{kept['id']}", remote.client(), []
    changes = (
        lambda: seaweedfs.replace(path, b"noise"),
        lambda: seaweedfs.ask("DELETE", f"{BUCKET}/{path}"),
        lambda: seaweedfs.replace(path, b"sound"),
    )
    for change in changes:
        change()
        remote.clock.advance(seconds=1)
        round_ = [each async for each in integrity.verify(remote.region, before_ms=remote.clock())]
        found += [each for each in round_ if each.blob.key == kept["id"]]
        assert [each.sound for each in round_ if each.blob.key == other["id"]] == [True]
    answer = await client.get(f"{OBJECTS}/{kept['id']}/content")

    assert [each.failed for each in found] == [(kept["id"],), (), ()]
    assert [each.returned for each in found] == [(), (), (kept["id"],)]
    assert (answer.status_code, answer.content) == (200, b"sound")


async def test_a_sweep_removes_what_no_row_names_and_spares_what_is_young(remote):
    """A service that was killed between an object and its row, and one that is about to write it."""
    kept = await remote.uploaded(b"sound")
    now, orphan = now_ms(), new_key()
    await arrive(remote.region.blobs, b"orphan", orphan)
    both = sorted([f"kept/{kept['id']}", f"kept/{orphan}"])
    found = []
    for hours in (1, 23, 25):
        remote.clock.now_ms = now + hours * HOUR
        found.append((await retention.at_start(remote.region), sorted(remote.objects())))

    assert found == [((0, 0), both), ((0, 0), both), ((0, 1), [f"kept/{kept['id']}"])]


async def test_a_sweep_spares_what_only_an_archive_holds(remote):
    remote.clock.now_ms = now_ms()
    kept = await remote.uploaded(b"sound")
    job = (await remote.client().post(f"{BULK}/start", json=[kept["id"]])).json()
    await retention.purge(remote.region, remote.claims(), [kept["id"]])

    remote.clock.advance(seconds=2 * 24 * 3600)
    swept = await retention.at_start(remote.region)
    answer = await remote.client().get(f"{BULK}/{job['zipName']}")

    assert (swept, answer.status_code) == ((1, 0), 200)


# ---- links of the store's own


async def direct(client, made: dict, **params) -> tuple[str, int]:
    """Such a link, and for how many seconds it is good."""
    params = {"presignUrl": "true", "direct": "true", **params}
    answer = await client.get(f"{OBJECTS}/{made['id']}/content", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["url"], answer.json()["expiresIn"]


async def test_a_direct_link_gives_the_bytes_from_the_store(remote):
    content = os.urandom(SIZE)
    made = await remote.uploaded(content)
    url, seconds = await direct(remote.client(access=Access.DOWNLOAD), made)
    async with httpx2.AsyncClient() as anybody:
        whole = await anybody.get(url)
        part = await anybody.get(url, headers={"range": f"bytes={MIB}-{8 * MIB}"})
        forged = await anybody.get(url[:-1] + ("0" if url[-1] != "0" else "1"))

    assert url.partition("?")[0].endswith(f"/{BUCKET}/{remote.prefix}/kept/{made['id']}")
    assert seconds == 1800
    assert (whole.status_code, whole.content) == (200, content)
    assert (part.status_code, part.content) == (206, content[MIB : 8 * MIB + 1])
    assert forged.status_code == 403


async def test_a_direct_link_to_shared_bytes_gives_them(remote):
    made = [await remote.uploaded(b"sound") for _ in range(2)]
    urls = [(await direct(remote.client(), each))[0] for each in made]
    async with httpx2.AsyncClient() as anybody:
        contents = [(await anybody.get(each)).content for each in urls]

    assert contents == [b"sound"] * 2


async def test_a_key_with_networks_gets_no_direct_link(remote):
    made = await remote.uploaded(b"sound")
    client = remote.client(networks=("127.0.0.0/8",))
    path = f"{OBJECTS}/{made['id']}/content?presignUrl=true"
    direct, ours = await client.get(f"{path}&direct=true"), await client.get(path)

    assert fault(direct) == (403, "insufficient_scope", None)
    assert ours.status_code == 200


async def test_a_direct_link_ends_when_it_says(remote):
    made, client = await remote.uploaded(b"sound"), remote.client()
    links = [await direct(client, made, expiresIn=seconds) for seconds in (1, 60)]
    await asyncio.sleep(2.1)
    async with httpx2.AsyncClient() as anybody:
        late, good = [await anybody.get(url) for url, _ in links]

    assert [seconds for _, seconds in links] == [1, 60]
    assert (late.status_code, good.status_code, good.content) == (403, 200, b"sound")


@pytest.mark.parametrize(("asked", "until", "given"), [(604_800, None, 604_800), (600, 60, 60)])
async def test_a_direct_link_is_good_for_as_long_as_its_maker_may_say(remote, asked, until, given):
    made = await remote.uploaded(b"sound")
    end = None if until is None else remote.clock() // 1000 + until
    url, seconds = await direct(remote.client(until=end), made, expiresIn=asked)
    async with httpx2.AsyncClient() as anybody:
        answer = await anybody.get(url)

    assert seconds == given
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == [str(given)]
    assert answer.content == b"sound"


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


async def test_an_archive_is_read_from_the_store_as_it_is_sent(remote):
    """Small members are read ahead together, large ones in pieces; a lost one is told."""
    contents = {f"{n}.mp3": os.urandom(size) for n, size in enumerate([0, 9, 40_000, 40_000, SIZE])}
    ids = [(await remote.uploaded(content, name=name))["id"] for name, content in contents.items()]
    client = remote.client()
    job = (await client.post(f"{BULK}/start", json=ids, params={"manifest": "true"})).json()
    path = f"{BULK}/{job['zipName']}"
    whole = (await client.get(path)).content
    part = await client.get(path, headers={"range": f"bytes=5000-{MIB}"})

    with zipfile.ZipFile(io.BytesIO(whole)) as read:
        assert read.testzip() is None
        found = {name: read.read(name) for name in read.namelist()}
    assert contents.items() < found.items()
    assert part.content == whole[5000 : MIB + 1]

    await remote.region.blobs.discard([ids[2]])
    cut = await client.get(path)
    status = (await client.get(f"{BULK}/status/{job['zipName']}")).json()
    assert cut.status_code == 503 or whole.startswith(cut.content)
    assert status["status"] == "PARTIAL_DONE"
    assert f"{ids[2]} LOST" in status["content"]
