"""`Batches`: what arrives during one batch makes up the next; each caller learns its own fate."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Sequence

import pytest

from soundkeep.foundation import batches as batches_module
from soundkeep.foundation.batches import Batches
from soundkeep.foundation.errors import StorageFull, Unavailable


class Disk:
    """Where batches go: it can be held, and it refuses what it is told to."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.batches: list[list[str]] = []
        self.kept: list[str] = []
        self.free = asyncio.Event()
        self.free.set()

    async def work(self, batch: Sequence[str]) -> None:
        self.batches.append(list(batch))
        await self.free.wait()
        bad = self.refused.intersection(batch)
        if bad:
            raise ValueError(*sorted(bad))
        self.kept += batch


async def waiting(batches: Batches[str], disk: Disk, *items: str) -> list[asyncio.Task]:
    """The items as tasks; the first is being worked at, the others wait."""
    disk.free.clear()
    tasks = [asyncio.create_task(batches.add(item, disk.work)) for item in items]
    await asyncio.sleep(0.01)
    return tasks


async def test_one_alone_is_worked_at_once():
    disk = Disk()
    await Batches[str]().add("a", disk.work)

    assert disk.batches == [["a"]]


async def test_what_arrives_meanwhile_makes_up_the_next_batch():
    disk, batches = Disk(), Batches[str]()
    tasks = await waiting(batches, disk, "a")
    tasks += await waiting(batches, disk, "b", "c", "d")
    disk.free.set()
    await asyncio.gather(*tasks)

    assert disk.batches == [["a"], ["b", "c", "d"]]


async def test_a_batch_has_a_largest_size():
    disk, batches = Disk(), Batches[str](largest=2)
    tasks = await waiting(batches, disk, "a")
    tasks += await waiting(batches, disk, "b", "c", "d", "e", "f")
    disk.free.set()
    await asyncio.gather(*tasks)

    assert disk.batches == [["a"], ["b", "c"], ["d", "e"], ["f"]]


async def test_nobody_returns_before_the_work_is_through():
    disk, batches = Disk(), Batches[str]()
    tasks = await waiting(batches, disk, "a", "b")

    assert [task.done() for task in tasks] == [False, False]
    disk.free.set()
    await asyncio.gather(*tasks)
    assert disk.kept == ["a", "b"]


async def fates(error: Exception) -> tuple[list[object], list[list[str]]]:
    """What becomes of six items that all wait long and fail so, and what was tried."""
    tried = []

    async def slow(batch: Sequence[str]) -> None:
        tried.append(list(batch))
        await asyncio.sleep(0.05)
        raise error

    batches = Batches[str]()
    tasks = [asyncio.create_task(batches.add(item, slow)) for item in "abcdef"]
    return await asyncio.gather(*tasks, return_exceptions=True), tried


async def test_where_one_alone_waited_for_nothing_the_rest_fail_with_it(monkeypatch):
    """Otherwise hundreds would wait one after the other for a database that does not answer."""
    monkeypatch.setattr(batches_module, "_LONG_SECONDS", 0.02)
    results, tried = await fates(Unavailable("The database is busy: try again."))

    assert {type(each) for each in results} == {Unavailable}
    assert tried == [list("abcdef"), ["a"]]


async def test_what_was_refused_to_one_is_never_told_to_another(monkeypatch):
    """The words may have the figures of another customer."""
    monkeypatch.setattr(batches_module, "_LONG_SECONDS", 0.02)
    _, tried = await fates(StorageFull("Your company's quota is 5 bytes."))

    assert tried == [list("abcdef"), *([each] for each in "abcdef")]


async def test_an_error_goes_to_its_owner_and_the_others_are_kept():
    disk, batches = Disk("bad", "worse"), Batches[str]()
    tasks = await waiting(batches, disk, "a")
    tasks += await waiting(batches, disk, "b", "bad", "c", "worse")
    disk.free.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [str(each) for each in results] == ["None", "None", "bad", "None", "worse"]
    assert disk.kept == ["a", "b", "c"]


async def test_after_an_error_the_next_one_is_welcome():
    disk, batches = Disk("bad"), Batches[str]()
    with pytest.raises(ValueError, match="bad"):
        await batches.add("bad", disk.work)
    await batches.add("a", disk.work)

    assert disk.kept == ["a"]


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_cancelled_caller_waits_for_the_fate_of_its_item(times):
    disk, batches = Disk(), Batches[str]()
    (task,) = await waiting(batches, disk, "a")
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.001)
    still_waiting = not task.done()
    disk.free.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert still_waiting
    assert disk.kept == ["a"]


async def test_a_cancelled_caller_whose_item_is_refused_is_cancelled_all_the_same():
    disk, batches = Disk("bad"), Batches[str]()
    (task,) = await waiting(batches, disk, "bad")
    task.cancel()
    disk.free.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    gc.collect()  # an error that nobody asked for would be a warning

    assert disk.kept == []


async def test_one_cancelled_caller_does_not_disturb_the_others():
    disk, batches = Disk(), Batches[str]()
    tasks = await waiting(batches, disk, "a", "b", "c")
    tasks[1].cancel()
    disk.free.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(each) for each in results] == [type(None), asyncio.CancelledError, type(None)]
    assert disk.kept == ["a", "b", "c"]


def test_a_loop_that_ends_does_not_wait_for_ever():
    """Work that never comes to an end, when everything is cancelled at once."""

    async def main() -> None:
        batches = Batches[str]()
        disk = Disk()
        await waiting(batches, disk, "a")
        await waiting(batches, disk, "b", "c")

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    thread.join(5)

    assert not thread.is_alive()


async def test_a_runner_that_was_ended_lets_go_of_everybody():
    disk, batches = Disk(), Batches[str]()
    tasks = await waiting(batches, disk, "a")
    tasks += await waiting(batches, disk, "b")
    batches._runner.cancel()
    async with asyncio.timeout(5):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    disk.free.set()
    await batches.add("c", disk.work)

    assert [type(each) for each in results] == [asyncio.CancelledError] * 2
    assert disk.kept == ["c"]
