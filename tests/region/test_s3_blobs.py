"""Bytes in S3: what the contract of all stores leaves open, and stores that fail."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from blob_stores import HOUR, arrive, keep, new_key, now_ms, read
from region_world import MIB

import s3_servers
from soundkeep.foundation.errors import StorageFull, TooLarge, Unavailable
from soundkeep.region.blobs import Bucket, Piece
from soundkeep.region.s3blobs import S3Blobs
from soundkeep.region.s3requests import Patience

BRISK = Patience(connect=1, silent=0.4, retry=0.8, short=2, long=20, later=0.2)
"""For stores that are gone: what takes seconds in earnest takes fractions of them."""

GIVEN_UP = 20
"""Seconds in which everything has an end, on the slowest machine."""


def opened(bucket: Bucket, patience: Patience = BRISK) -> S3Blobs:
    return S3Blobs(bucket, entropy=secrets.token_bytes, patience=patience)


@pytest.fixture
def bucket(seaweedfs, relay):
    """A bucket behind the relay."""
    return seaweedfs.bucket(endpoint=f"http://127.0.0.1:{relay.port}")


@pytest.fixture
async def blobs(bucket, anyio_backend):
    blobs = opened(bucket)
    yield blobs
    await blobs.close()


@pytest.fixture
def objects(seaweedfs, bucket):
    """What is in the bucket, seen past the relay."""
    return lambda: seaweedfs.objects(bucket.prefix)


async def upload(blobs: S3Blobs, content: bytes, key: str) -> None:
    """As a use case does it: whatever ends it early, it is abandoned."""
    incoming = blobs.incoming(key)
    try:
        for start in range(0, len(content), MIB):
            await incoming.write(content[start : start + MIB])
        await incoming.close()
    except BaseException:
        await incoming.abandon()
        raise


# ---- the store is busy


@pytest.mark.parametrize("size", [5, 20 * MIB])
async def test_an_upload_outlives_a_few_failures_of_the_store(blobs, relay, size):
    content, key = os.urandom(size), new_key()
    relay.refusals += [503, 500, 503]
    await upload(blobs, content, key)

    assert relay.refusals == []
    assert await read(blobs, key, 0, size) == content


async def test_everything_else_outlives_them_too(blobs, relay):
    key = await keep(blobs, b"sound")
    steps = [
        lambda: blobs.size(key),
        lambda: read(blobs, key, 0, 5),
        lambda: blobs.leftovers(after_ms=0, before_ms=2**62),
        lambda: blobs.unstage(key),
        blobs.check,
        lambda: blobs.discard([key]),
    ]
    for step in steps:
        relay.refusals += [500, 503]
        await step()
        assert relay.refusals == []

    assert await blobs.size(key) is None


async def test_a_reader_outlives_connections_that_are_cut(blobs, relay, portal):
    content = os.urandom(4 * MIB)
    key = await keep(blobs, content)
    found = b""
    async for piece in await blobs.read(key, 0, len(content)):
        found += piece
        if len(found) in (128 * 1024, MIB, 2 * MIB):
            await asyncio.to_thread(portal.call, relay.cut)

    assert found == content


async def test_a_full_store_is_told_apart(blobs, relay, objects):
    relay.refusals += [507] * 20
    with pytest.raises(StorageFull):
        await upload(blobs, b"sound", new_key())
    relay.refusals.clear()

    assert objects() == {}


# ---- the store goes away


async def test_a_reader_is_told_that_the_store_went_away_and_another_goes_on(blobs, relay, portal):
    content = os.urandom(8 * MIB)
    key = await keep(blobs, content)
    reader, found = await blobs.read(key, 0, len(content)), b""
    with pytest.raises(Unavailable):
        async with asyncio.timeout(GIVEN_UP):
            async for piece in reader:
                found += piece
                if len(found) == MIB:
                    await asyncio.to_thread(portal.call, relay.down)
    relay.gone = False

    assert content.startswith(found)
    assert await read(blobs, key, 0, len(content)) == content


@pytest.mark.parametrize("size", [MIB, 24 * MIB])
async def test_an_upload_during_which_the_store_goes_away_shows_nothing(
    blobs, relay, portal, objects, size
):
    key, content = new_key(), os.urandom(size)
    incoming = blobs.incoming(key)
    await incoming.write(content[: size // 2])
    await asyncio.to_thread(portal.call, relay.down)
    with pytest.raises(Unavailable):
        async with asyncio.timeout(GIVEN_UP):
            await incoming.write(content[size // 2 :])
            await incoming.close()
    await incoming.abandon()
    relay.gone = False
    left = objects()
    await upload(blobs, content, key)

    assert left == {}
    assert await read(blobs, key, 0, size) == content


async def test_a_store_that_falls_silent_is_given_up(blobs, relay):
    key = await keep(blobs, b"sound")
    staging = await blobs.stage(key, at=0)
    await staging.write(b"sound")
    relay.silent = True
    steps = [
        upload(blobs, b"sound", new_key()),
        upload(blobs, bytes(20 * MIB), new_key()),
        read(blobs, key, 0, 5),
        blobs.size(key),
        blobs.leftovers(after_ms=0, before_ms=2**62),
        staging.sync(),
        blobs.unstage(key),
        blobs.discard([key]),
        blobs.check(),
    ]
    async with asyncio.timeout(GIVEN_UP):
        found = await asyncio.gather(*steps, return_exceptions=True)
    await staging.close()

    assert [type(each) for each in found] == [Unavailable] * len(steps)


async def test_a_piece_that_failed_to_be_staged_is_not_skipped(blobs, relay):
    """Or the next one would be told of, with a gap before it."""
    staging = await blobs.stage(new_key(), at=0)
    relay.gone = True
    await staging.write(bytes(9 * MIB))
    for _ in range(2):
        with pytest.raises(Unavailable):
            await staging.sync()
    relay.gone = False
    with pytest.raises(Unavailable):
        await staging.sync()
    await staging.close()


async def test_a_slow_store_is_waited_for_while_it_is_alive(blobs, relay):
    """A body on a slow line takes longer than any answer may."""
    relay.slow_seconds = 3 * BRISK.silent
    await upload(blobs, b"sound", key := new_key())

    assert await blobs.size(key) == 5


async def test_a_server_that_is_killed_and_started_again_goes_on(tmp_path):
    """A process of its own, so that its end disturbs nobody."""
    content, port = os.urandom(4 * MIB), s3_servers.free_ports(1)[0]
    with s3_servers.rclone(tmp_path, port) as server:
        bucket = server.bucket()
        blobs = opened(bucket)
        await upload(blobs, content, kept := new_key())
        unfinished = blobs.incoming(new_key())
        await unfinished.write(bytes(12 * MIB))
    with pytest.raises(Unavailable):
        await unfinished.close()
    await unfinished.abandon()
    with pytest.raises(Unavailable):
        await blobs.size(kept)
    with s3_servers.rclone(tmp_path, port) as server:
        assert await blobs.size(kept) == len(content)
        assert server.objects(bucket.prefix) == {f"kept/{kept}": len(content)}


# ---- the store gets something else than was sent


@pytest.mark.parametrize("size", [5, 9 * MIB])
async def test_bytes_that_change_on_their_way_are_refused(blobs, relay, objects, size):
    relay.flips = 1
    with pytest.raises(Unavailable):
        await upload(blobs, bytes(size), new_key())

    assert relay.flips == 0
    assert objects() == {}


async def test_a_server_without_checksums_can_be_used_all_the_same(seaweedfs, relay):
    bucket = seaweedfs.bucket(endpoint=f"http://127.0.0.1:{relay.port}", checksums=False)
    blobs = opened(bucket)
    await upload(blobs, bytes(9 * MIB), key := new_key())

    assert await blobs.size(key) == 9 * MIB


async def test_a_blob_that_is_replaced_while_it_is_read_ends_in_an_error(blobs, seaweedfs, bucket):
    """By one of the same length."""
    key = await keep(blobs, os.urandom(8 * MIB))
    reader = await blobs.read(key, 0, 8 * MIB)
    await anext(reader)
    seaweedfs.replace(f"{bucket.prefix}/kept/{key}", bytes(8 * MIB))

    with pytest.raises(Unavailable) as error:
        async for _ in reader:
            pass
    assert error.value.facts == {"lost": key}


# ---- who we are


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"secret_access_key": "wrong-s3cret"}, "ListBucket (SignatureDoesNotMatch)"),
        ({"access_key_id": "AKNOBODY"}, "ListBucket (InvalidAccessKeyId)"),
        (s3_servers.READER, "PutObject (AccessDenied)"),
        ({"name": "no-such-bucket"}, "`blobs` in the settings"),
        ({"endpoint": "http://127.0.0.1:1"}, "does not answer"),
    ],
)
async def test_a_store_that_cannot_be_used_says_what_to_look_at(seaweedfs, changes, says):
    bucket = seaweedfs.bucket(**changes)
    with pytest.raises(Unavailable) as error:
        await opened(bucket).check()

    assert says in error.value.message
    assert bucket.access_key_id not in error.value.message
    assert bucket.secret_access_key not in error.value.message
    assert error.value.__cause__ is None


async def test_a_secret_is_not_shown_with_its_bucket(seaweedfs):
    assert s3_servers.SECRET not in repr(seaweedfs.bucket())


async def test_what_the_environment_says_of_aws_does_not_matter(seaweedfs, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKNOBODY",
        "AWS_SECRET_ACCESS_KEY": "wrong-s3cret",
        "AWS_SESSION_TOKEN": "wrong-token",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_REGION": "mars-1",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_UNSIGNED_PAYLOAD": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    }.items():
        monkeypatch.setenv(name, value)
    blobs = opened(seaweedfs.bucket())

    await blobs.check()


# ---- links


async def test_a_link_gives_the_bytes_and_their_ranges_to_whoever_has_it(blobs):
    key = await keep(blobs, b"0123456789")
    url = await blobs.link(key, seconds=60)
    async with httpx2.AsyncClient() as client:
        whole = await client.get(url)
        part = await client.get(url, headers={"range": "bytes=2-4"})

    assert (whole.status_code, whole.content) == (200, b"0123456789")
    assert (part.status_code, part.content) == (206, b"234")
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == ["60"]
    assert s3_servers.SECRET not in url


@pytest.fixture(params=["seaweedfs", "rclone"])
async def linking(request, anyio_backend):
    """Stores that check signatures."""
    blobs = opened(request.getfixturevalue(request.param).bucket())
    yield blobs
    await blobs.close()


async def test_a_link_opens_one_object_and_only_as_it_was_made(linking):
    keys = [await keep(linking, b"0123456789") for _ in range(2)]
    url = await linking.link(keys[0], seconds=60)
    day = parse_qs(urlsplit(url).query)["X-Amz-Date"][0]
    forged = {
        "signature": url[:-1] + ("0" if url[-1] != "0" else "1"),
        "object": url.replace(*keys),
        "seconds": url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        "day": url.replace(day, f"{int(day[:4]) + 1}{day[4:]}"),
        "more": f"{url}&response-content-type=text/html",
    }
    async with httpx2.AsyncClient() as client:
        whole = await client.get(url)
        part = await client.get(url, headers={"range": "bytes=2-4"})
        refused = {what: (await client.get(forged[what])).status_code for what in forged}
        others = [await client.request(method, url) for method in ("HEAD", "PUT", "DELETE")]
        unsigned = await client.get(url.partition("?")[0])
        still = await client.get(url)

    assert (whole.status_code, whole.content) == (200, b"0123456789")
    assert (part.status_code, part.content) == (206, b"234")
    assert refused == dict.fromkeys(forged, 403)
    assert [each.status_code for each in others] == [403] * 3
    assert unsigned.status_code in (400, 403)
    assert still.content == b"0123456789"


async def test_a_link_ends_when_it_says(linking):
    key = await keep(linking, b"sound")
    short, long = [await linking.link(key, seconds=seconds) for seconds in (1, 60)]
    await asyncio.sleep(2.1)
    async with httpx2.AsyncClient() as client:
        late, good = await client.get(short), await client.get(long)

    assert late.status_code in (400, 403)  # rclone says 400
    assert b"AccessDenied" in late.content
    assert (good.status_code, good.content) == (200, b"sound")


@pytest.mark.parametrize("size", [40, 9 * MIB])
async def test_what_a_link_gives_is_never_shown_as_a_page(seaweedfs, size):
    """A store that is not told guesses from the bytes."""
    blobs = opened(seaweedfs.bucket())
    key = await keep(blobs, b"<html><script>alert(1)</script>".ljust(size))
    answer = httpx2.get(await blobs.link(key, seconds=60))

    assert len(answer.content) == size
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment"


@pytest.mark.parametrize(
    ("facts", "begins"),
    [
        ({}, "https://s3.eu-north-1.amazonaws.com/calls/uk/kept/"),
        ({"virtual": True}, "https://calls.s3.eu-north-1.amazonaws.com/uk/kept/"),
        ({"endpoint": "https://s3.test:9000"}, "https://s3.test:9000/calls/uk/kept/"),
        (
            {"endpoint": "https://s3.test:9000", "virtual": True},
            "https://calls.s3.test:9000/uk/kept/",
        ),
    ],
)
async def test_an_object_has_its_address_by_path_or_by_host(anyio_backend, facts, begins):
    keys = {"access_key_id": "AK", "secret_access_key": "s"}
    blobs = opened(Bucket(name="calls", prefix="uk", region="eu-north-1", **keys, **facts))
    key = new_key()
    url = await blobs.link(key, seconds=1)

    assert url.startswith(f"{begins}{key}?")
    assert "%2Feu-north-1%2Fs3%2F" in url


# ---- uploads in parts


async def test_a_long_upload_is_no_object_until_it_is_closed(seaweedfs):
    """And the view from outside that these tests rely on sees it on its way."""
    bucket = seaweedfs.bucket()
    blobs = opened(bucket)
    incoming = blobs.incoming(key := new_key())
    await incoming.write(bytes(20 * MIB))
    path = f"{bucket.prefix}/kept/{key}"
    pending = seaweedfs.pending(bucket.prefix), seaweedfs.objects(bucket.prefix)
    await incoming.close()

    assert pending == ([path], {})
    assert seaweedfs.pending(bucket.prefix) == []
    assert seaweedfs.objects(bucket.prefix) == {f"kept/{key}": 20 * MIB}


async def test_a_short_upload_is_one_request(blobs, relay):
    await upload(blobs, bytes(8 * MIB), new_key())

    assert [method for method, _ in relay.asked] == ["PUT"]


async def test_parts_grow_with_what_is_expected(blobs):
    tib = 1024**4
    for expected in (0, 5 * 1024**3, 5 * tib):
        part_size = blobs.incoming(new_key(), expected=expected)._part_size
        assert part_size >= 8 * MIB
        assert part_size * 10_000 >= expected
        assert part_size < max(9 * MIB, expected / 9_000)


async def test_a_body_without_a_length_may_not_have_too_many_parts(blobs):
    incoming = blobs.incoming(new_key())
    incoming.size = 8 * MIB * 10_000 - 1

    with pytest.raises(TooLarge):
        await incoming.write(b"xx")


# ---- staging


async def test_a_stalled_writer_that_comes_back_late_does_no_harm(blobs):
    """Somebody else went on from the same offset; the rows tell of that one's pieces only."""
    key = new_key()
    late = await blobs.stage(key, at=0)
    await late.write(b"XXXXX")
    pieces = []
    for at, chunk in [(0, b"sou"), (3, b"nd")]:
        staging = await blobs.stage(key, at=at)
        await staging.write(chunk)
        pieces += await staging.sync()
        await staging.close()
    await late.sync()
    await late.close()
    await blobs.gather(key, 5, pieces)

    assert await read(blobs, key, 0, 5) == b"sound"


async def test_a_piece_may_count_in_part(blobs):
    """The offset of the upload went back into its middle."""
    key = new_key()
    staging = await blobs.stage(key, at=0)
    await staging.write(b"souXX")
    (long,) = await staging.sync()
    await staging.close()
    staging = await blobs.stage(key, at=3)
    await staging.write(b"nd")
    pieces = [Piece(long.name, 0, 3), *await staging.sync()]
    await staging.close()
    digests = await blobs.gather(key, 5, pieces)

    assert digests.md5 == hashlib.md5(b"sound").hexdigest()
    assert await read(blobs, key, 0, 5) == b"sound"


@pytest.mark.parametrize("bounds", [[(0, 3), (4, 5)], [(0, 3), (2, 5)], [(1, 5)], [(0, 5), (5, 6)]])
async def test_pieces_that_do_not_join_make_no_blob(blobs, objects, bounds):
    key, pieces = new_key(), []
    for start, end in bounds:
        staging = await blobs.stage(key, at=start)
        await staging.write(bytes(end - start))
        pieces += await staging.sync()
        await staging.close()
    with pytest.raises(Unavailable):
        await blobs.gather(key, 5, pieces)

    assert not [name for name in objects() if name.startswith("kept/")]


async def test_a_piece_that_is_missing_makes_no_blob(blobs, objects):
    key = new_key()
    staging = await blobs.stage(key, at=0)
    await staging.write(b"sound")
    pieces = await staging.sync()
    await staging.close()
    await blobs.unstage(key)
    with pytest.raises(Unavailable):
        await blobs.gather(key, 5, pieces)

    assert objects() == {}


@pytest.mark.parametrize("name", ["", "..", "../kept/x", "0" * 20, f"{'0' * 20}-{'g' * 16}"])
async def test_what_is_no_piece_becomes_no_path(blobs, relay, name):
    with pytest.raises(ValueError):
        await blobs.gather(new_key(), 1, [Piece(name, 0, 1)])

    assert relay.asked == []


# ---- leftovers


async def test_only_what_is_old_by_both_clocks_is_left_over(blobs):
    """Ours made the key, the store's dated the object: either may be wrong."""
    now = now_ms()
    ages = {"young": 0, "begun long ago": -3 * HOUR, "of a clock that is fast": 3 * HOUR}
    keys = {what: new_key(now + age) for what, age in ages.items()}
    for key in keys.values():
        await arrive(blobs, b"sound", key)

    async def told(after: int, before: int) -> set[str]:
        found = await blobs.leftovers(after_ms=now + after, before_ms=now + before)
        return {what for what, key in keys.items() if key in found}

    assert await told(-4 * HOUR, -HOUR) == set()
    assert await told(-4 * HOUR, HOUR) == {"young", "begun long ago"}
    assert await told(-HOUR, HOUR) == {"young"}
    assert await told(-4 * HOUR, 4 * HOUR) == set(keys)


async def test_alien_objects_among_the_blobs_are_left_alone(blobs, seaweedfs, bucket):
    key = await keep(blobs, b"sound")
    for name in ("README", "0123456789/x", "ABCDEF0123456789"):
        seaweedfs.replace(f"{bucket.prefix}/kept/{name}", b"x")

    assert await blobs.leftovers(after_ms=0, before_ms=2**62) == [key]


async def test_more_leftovers_than_one_list_holds_are_told(blobs):
    keys = sorted(new_key() for _ in range(1005))
    for start in range(0, len(keys), 30):
        await asyncio.gather(*(upload(blobs, b"", key) for key in keys[start : start + 30]))
    found = await blobs.leftovers(after_ms=0, before_ms=2**62)
    await blobs.discard(found)

    assert found == keys
    assert await blobs.leftovers(after_ms=0, before_ms=2**62) == []
