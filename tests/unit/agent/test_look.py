"""Looks at file systems that may not answer."""

import asyncio
import itertools
import threading
from collections.abc import Iterator

import pytest

from kubeferry.agent.look import Look
from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons


class Dying:
    """A file system that answers with the number of the look, until it is told not to."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.looks = 0
        self._numbers = itertools.count(1)

    def look(self) -> int:
        self.looks = next(self._numbers)
        number = self.looks
        self.answers.wait()
        return number


@pytest.fixture
def dying() -> Iterator[Dying]:
    made = Dying()
    yield made
    made.answers.set()


async def hangs(look: Look[int]) -> None:
    with pytest.raises(StorageError, match="a look at /disks does not return") as told:
        await look.now()
    assert (told.value.reason, told.value.retryable) == (reasons.STORAGE_ERROR, True)


async def test_each_look_sees_what_is_there_now(dying: Dying) -> None:
    look = Look("/disks", dying.look)
    assert [await look.now() for _ in range(3)] == [1, 2, 3]


async def test_what_a_look_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await Look("/disks", lambda: 1 // 0).now()


async def test_no_second_look_is_sent_after_one_that_hangs_and_none_waits_for_it_again(dying: Dying) -> None:
    look = Look("/disks", dying.look, deadline=0.01)
    dying.answers.clear()
    await hangs(look)
    look._deadline = 3600
    async with asyncio.timeout(10):
        for _ in range(3):
            await hangs(look)
    assert dying.looks == 1


async def test_what_a_look_that_hung_saw_is_too_old_and_it_is_looked_again(dying: Dying) -> None:
    look = Look("/disks", dying.look, deadline=0.01)
    dying.answers.clear()
    await hangs(look)
    hanging = look._hanging
    assert hanging is not None
    dying.answers.set()
    await asyncio.wait({hanging})
    look._deadline = 3600
    assert await look.now() == 2
