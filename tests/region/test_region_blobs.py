"""What every store of bytes does, be it local disks or S3; and the ids that are its keys."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
import zlib
from contextlib import aclosing, suppress
from functools import partial

import pytest
from blob_stores import HOUR, NO_KEYS, arrive, keep, new_key, now_ms, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_world import MIB, START_MS

from soundkeep.foundation.errors import Unavailable
from soundkeep.region.blobs import Piece
from soundkeep.region.model import Digests


@pytest.fixture
def blobs(store):
    return store.blobs


def digests_of(content: bytes) -> Digests:
    return Digests(
        len(content),
        hashlib.md5(content).hexdigest(),
        hashlib.sha256(content).hexdigest(),
        zlib.crc32(content),
    )


# ---- in and out

SIZES = [0, 1, MIB - 1, MIB, MIB + 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 20 * MIB]


@pytest.mark.parametrize("size", SIZES)
async def test_what_comes_in_goes_out_and_its_digests_are_right(blobs, size):
    content, key = os.urandom(size), new_key()
    digests = await arrive(blobs, content, key)
    await blobs.settle([key])

    assert digests == digests_of(content)
    assert await blobs.size(key) == size
    assert await read(blobs, key, 0, size) == content
    assert await read(blobs, key, size // 3, size // 2) == content[size // 3 : size // 2]


async def test_chunks_of_any_size_come_in(blobs):
    content, key = os.urandom(3 * MIB), new_key()
    incoming = blobs.incoming(key)
    for start, end in [(0, 0), (0, 1), (1, 1), (1, MIB + 5), (MIB + 5, 3 * MIB)]:
        await incoming.write(content[start:end])
    digests = await incoming.close()

    assert incoming.size == len(content)
    assert digests == digests_of(content)
    assert await read(blobs, key, 0, len(content)) == content


async def test_any_slice_can_be_read(blobs):
    content = os.urandom(3 * MIB + 17)
    key = await keep(blobs, content)
    offsets = st.integers(0, len(content))

    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(st.tuples(offsets, offsets).map(sorted))
    def slices(bounds):
        wanted.append(tuple(bounds))

    wanted = [(0, 0), (0, 64 * 1024), (64 * 1024 - 1, 64 * 1024 + 1), (len(content),) * 2]
    await asyncio.to_thread(slices)
    found = [await read(blobs, key, start, end) for start, end in wanted]

    assert found == [content[start:end] for start, end in wanted]


async def test_settling_and_discarding_can_be_repeated(blobs):
    key = new_key()
    await arrive(blobs, b"sound", key)
    for _ in range(2):
        await blobs.settle([key])
    kept = await read(blobs, key, 0, 5)
    for _ in range(2):
        await blobs.discard([key])

    assert kept == b"sound"
    assert await blobs.size(key) is None


async def test_what_is_discarded_before_it_is_settled_is_gone(store, blobs):
    keys = [new_key() for _ in range(3)]
    for key in keys:
        await arrive(blobs, b"sound", key)
    await blobs.discard(iter(keys))

    assert store.names() == []


@pytest.mark.parametrize("size", [0, 1, 20 * MIB])
async def test_what_is_abandoned_leaves_nothing(store, blobs, size):
    incoming = blobs.incoming(new_key())
    await incoming.write(bytes(size))
    await incoming.abandon()

    assert store.names() == []


@pytest.mark.parametrize("size", [1, 20 * MIB])
async def test_what_is_abandoned_after_all_leaves_nothing(store, blobs, size):
    """Its MD5 was not the one that was declared."""
    incoming = blobs.incoming(new_key())
    await incoming.write(bytes(size))
    await incoming.close()
    await incoming.abandon()

    assert store.names() == []


async def test_an_upload_whose_task_is_cancelled_leaves_nothing(store, blobs):
    """Its client went away."""
    begun = asyncio.Event()

    async def upload() -> None:
        incoming = blobs.incoming(new_key())
        try:
            for number in range(1000):
                await incoming.write(bytes(MIB))
                if number == 20:
                    begun.set()
        finally:
            await incoming.abandon()

    task = asyncio.create_task(upload())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert store.names() == []


@pytest.mark.parametrize("size", [1, 12 * MIB])
async def test_an_upload_that_is_cancelled_while_it_closes_leaves_nothing(store, blobs, size):
    for turns in range(10):
        incoming = blobs.incoming(new_key())
        await incoming.write(bytes(size))
        closing = asyncio.create_task(incoming.close())
        for _ in range(turns**2):
            await asyncio.sleep(0)
        closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing
        await incoming.abandon()

    assert store.names() == []


async def test_two_uploads_at_once_do_not_mix(blobs):
    contents = {new_key(): os.urandom(10 * MIB) for _ in range(2)}
    digests = await asyncio.gather(*(arrive(blobs, each, key) for key, each in contents.items()))

    assert digests == [digests_of(each) for each in contents.values()]
    assert [await read(blobs, key, 0, 10 * MIB) for key in contents] == [*contents.values()]


# ---- readers


async def test_a_missing_or_short_blob_is_told_before_the_first_byte(store, blobs):
    missing, short = new_key(), await keep(blobs, bytes(MIB))
    store.cut(short, MIB - 1)

    assert await blobs.size(missing) is None
    assert await blobs.size(short) == MIB - 1
    for key, start, end in [(missing, 0, 1), (missing, 0, 0), (short, 0, MIB), (short, MIB, MIB)]:
        with pytest.raises(Unavailable) as error:
            await blobs.read(key, start, end)
        assert error.value.facts == {"lost": key}


async def test_a_blob_that_is_cut_short_while_it_is_read_ends_in_an_error(store, blobs):
    key = await keep(blobs, bytes(8 * MIB))
    reader = await blobs.read(key, 0, 8 * MIB)
    first = await anext(reader)
    store.cut(key, MIB)

    assert first
    with pytest.raises(Unavailable):
        async for _ in reader:
            pass


async def test_a_reader_may_stop_early(blobs):
    key = await keep(blobs, bytes(4 * MIB))
    async with aclosing(await blobs.read(key, 5, 4 * MIB)) as reader:
        first = await anext(reader)

    assert 0 < len(first) <= 128 * 1024
    assert await read(blobs, key, 0, 4 * MIB) == bytes(4 * MIB)


async def test_two_readers_do_not_disturb_each_other(blobs):
    content = os.urandom(3 * MIB)
    key = await keep(blobs, content)
    first, second = await blobs.read(key, 0, 3 * MIB), await blobs.read(key, 100, 2 * MIB)
    found = [b"", b""]
    for _ in range(50):
        found[0] += await anext(first, b"")
        found[1] += await anext(second, b"")

    assert found == [content, content[100 : 2 * MIB]]


async def test_bytes_at_hand_are_the_right_ones(blobs):
    key = await keep(blobs, b"sound")

    blobs.look(key, 5)
    assert blobs.at_hand(key, 5, 0, 5) in (None, b"sound")
    assert blobs.at_hand(key, 5, 1, 3) in (None, b"ou")


# ---- leftovers


async def test_what_no_row_names_is_told_by_when_it_came(blobs):
    key = new_key()
    await arrive(blobs, b"sound", key)
    now = now_ms()

    async def told(after: int, before: int) -> bool:
        return key in await blobs.leftovers(after_ms=now + after, before_ms=now + before)

    assert await told(-HOUR, HOUR)
    assert await told(-now, 2**62)
    assert not await told(HOUR, 2 * HOUR)
    assert not await told(-2 * HOUR, -HOUR)
    await blobs.discard([key])
    assert not await told(-HOUR, HOUR)


# ---- staging


async def stage(blobs, key: str, at: int, *chunks: bytes) -> list[Piece]:
    """Go on with an upload at this offset: the pieces to remember."""
    staging = await blobs.stage(key, at=at)
    try:
        for chunk in chunks:
            await staging.write(chunk)
        return list(await staging.sync())
    finally:
        await staging.close()


async def gathered(blobs, key: str, size: int, pieces: list[Piece]) -> bytes:
    """The bytes of an upload that is whole, once its digests are right."""
    digests = await blobs.gather(key, size, pieces)
    content = await read(blobs, key, 0, size)
    assert digests == digests_of(content)
    return content


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 17 * MIB])
async def test_a_resumable_upload_in_one_go_becomes_a_blob(store, blobs, size):
    key, content = new_key(), os.urandom(size)
    chunks = [content[start : start + 3 * MIB] for start in range(0, size, 3 * MIB)]
    pieces = await stage(blobs, key, 0, *chunks)

    assert await gathered(blobs, key, size, pieces) == content
    await blobs.settle([key])
    await blobs.unstage(key)
    assert [name for name in store.names() if not name.startswith("kept/")] == []


async def test_many_tiny_pieces_make_one_blob(blobs):
    key, content, pieces = new_key(), os.urandom(150), []
    for at in range(0, 150, 3):
        pieces += await stage(blobs, key, at, content[at : at + 1], content[at + 1 : at + 3])

    assert await gathered(blobs, key, 150, pieces) == content


async def test_syncing_again_tells_only_of_what_is_new(blobs):
    key = new_key()
    staging = await blobs.stage(key, at=0)
    pieces, told = [], []
    for chunk in (b"so", b"", b"un", b"d"):
        await staging.write(chunk)
        new = await staging.sync()
        pieces += new
        told.append(len(new))
    await staging.close()

    assert told in ([1, 0, 1, 1], [0, 0, 0, 0])
    assert await gathered(blobs, key, 5, pieces) == b"sound"


async def test_what_came_after_the_offset_of_a_resumed_upload_is_dropped(blobs):
    """The row said 3 when the client asked, whatever came to the store before or since."""
    key = new_key()
    pieces = await stage(blobs, key, 0, b"sou")
    await stage(blobs, key, 3, b"XXXXX")
    pieces += await stage(blobs, key, 3, b"nd")

    assert await gathered(blobs, key, 5, pieces) == b"sound"


async def test_what_was_not_synced_does_no_harm(blobs):
    key = new_key()
    staging = await blobs.stage(key, at=0)
    await staging.write(b"sou")
    pieces = list(await staging.sync())
    await staging.write(b"X" * (9 * MIB))
    await staging.close()
    pieces += await stage(blobs, key, 3, b"nd")

    assert await gathered(blobs, key, 5, pieces) == b"sound"


async def test_gathering_and_unstaging_can_be_repeated(blobs):
    key, content = new_key(), os.urandom(100)
    pieces = await stage(blobs, key, 0, content)
    first = await blobs.gather(key, 100, pieces)

    assert await blobs.gather(key, 100, pieces) == first
    assert await gathered(blobs, key, 100, pieces) == content
    for _ in range(2):
        await blobs.unstage(key)
    assert await read(blobs, key, 0, 100) == content


async def test_too_few_staged_bytes_make_no_blob(blobs):
    key = new_key()
    pieces = await stage(blobs, key, 0, b"soun")
    with pytest.raises(Unavailable):
        await blobs.gather(key, 5, pieces)

    assert await blobs.size(key) is None


async def test_unstaging_one_upload_leaves_the_others(blobs):
    first = new_key()
    second = f"{first[:-1]}{'0' if first[-1] != '0' else '1'}"
    await stage(blobs, first, 0, b"music")
    pieces = await stage(blobs, second, 0, b"sound")
    await blobs.unstage(first)

    assert await gathered(blobs, second, 5, pieces) == b"sound"


# ---- keys


async def test_what_is_no_key_becomes_no_path(store, blobs):
    for key in NO_KEYS:
        for step in (
            blobs.incoming,
            partial(blobs.look, size=0),
            partial(blobs.at_hand, size=0, start=0, end=0),
        ):
            with pytest.raises(ValueError):
                step(key)
        for step in (
            blobs.size(key),
            blobs.read(key, 0, 1),
            blobs.link(key, seconds=1),
            blobs.settle([key]),
            blobs.discard([key]),
            blobs.stage(key, at=0),
            blobs.gather(key, 0, []),
            blobs.unstage(key),
        ):
            with pytest.raises(ValueError):
                await step

    assert store.names() == []


async def test_a_store_that_works_says_so(store, blobs):
    await blobs.check()

    assert store.names() == []


# ---- ids


async def test_ids_are_uuids_of_version_7_that_sort_by_time(local):
    ids = []
    for _ in range(200):
        local.clock.advance(seconds=0.001)
        ids.append((await local.keep()).id)
    parsed = [uuid.UUID(each) for each in ids]

    assert {(each.version, each.variant) for each in parsed} == {(7, uuid.RFC_4122)}
    assert [str(each) for each in parsed] == ids == sorted(ids)
    assert parsed[0].int >> 80 == START_MS + 1001


@given(st.binary(min_size=10, max_size=10), st.integers(0, 2**48 - 1))
def test_any_moment_and_any_randomness_make_a_valid_id(random, now_ms):
    from types import SimpleNamespace

    from soundkeep.region.plane import new_object_id

    found = uuid.UUID(
        new_object_id(SimpleNamespace(clock=lambda: now_ms, entropy=lambda _: random))
    )
    bits = int.from_bytes(random)

    assert (found.version, found.variant, found.int >> 80) == (7, uuid.RFC_4122, now_ms)
    assert found.int & (2**62 - 1) == bits & (2**62 - 1)
    assert found.int >> 64 & 0xFFF == bits >> 64 & 0xFFF
