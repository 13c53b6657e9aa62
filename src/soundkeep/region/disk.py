"""Work of the disk, beside the event loop; what goes wrong is told in our own errors."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from soundkeep.foundation.errors import StorageFull, Unavailable
from soundkeep.foundation.waiting import to_the_end

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Run disk work beside the loop; a cancelled caller waits for its end all the same."""

    def told() -> T:
        with translated():
            return work()

    return await to_the_end(asyncio.ensure_future(asyncio.to_thread(told)))


async def opened(work: Callable[[], int]) -> int:
    """A file that is opened beside the loop; a caller that is cancelled leaves none behind."""
    files: list[int] = []
    try:
        await in_thread(lambda: files.append(work()))
    except BaseException:
        for file in files:
            os.close(file)
        raise
    return files[0]


@contextmanager
def translated() -> Iterator[None]:
    """StorageFull and Unavailable in place of what the system says."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("The disk is full: nothing of this recording was kept.") from error
        raise Unavailable(f"The store of recordings does not answer: {error.strerror}.") from error
