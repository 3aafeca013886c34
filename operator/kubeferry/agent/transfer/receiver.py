"""The receiving end of a copy, at the target: what is said to the sender. What is done with the files is `landing`'s."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from kubeferry.agent.transfer.landing import Landing
from kubeferry.agent.transfer.threads import completed, finished
from kubeferry.agent.transfer.wire import (
    Answer,
    AnswerState,
    Digests,
    Frame,
    FrameType,
    broken,
    frame,
    message,
    next_frame,
    parse,
    parse_data,
)

T = TypeVar("T")

ALIVE_SECONDS = 15.0
"""Between two signs of life before the data may come."""
ALIVE_TIMES = 40
"""Signs of life in all: after ten minutes a file system that hangs is taken for one, and the sender gives up."""
SILENCE_SECONDS = 60.0
"""Without a frame from the sender, or without one that it takes."""


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """The next frame of the other agent.

    Raises:
        TransferError: `TransferBroken`: none came for `SILENCE_SECONDS`, what came is none, or the stream ended.
    """
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await next_frame(reader)
    except TimeoutError as error:
        raise broken(f"the other agent said nothing for {SILENCE_SECONDS:.0f} s; see its log, and the load of its disks") from error


async def tell(writer: asyncio.StreamWriter, answer: Answer) -> None:
    """Answer the other agent.

    Raises:
        TransferError: `TransferBroken`: it takes nothing any more.
    """
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            writer.write(message(answer))
            await writer.drain()
    except OSError as error:  # a time-out is one
        raise broken(f"the other agent does not take the answer {answer.state}: {error}; see its log") from error


class SignsOfLife:
    """Tells the sender now and then that this host is at work, until it is stopped: to be, before anything else is told."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._telling = asyncio.create_task(self._tell(), name="signs of life")

    def stop(self) -> None:
        """Tell no more."""
        self._telling.cancel()

    async def _tell(self) -> None:
        for _ in range(ALIVE_TIMES):
            await asyncio.sleep(ALIVE_SECONDS)
            self._writer.write(frame(FrameType.ALIVE))


async def receive(landing: Landing, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, life: SignsOfLife) -> None:
    """Take a copy. However this ends, no thread works on its files any more.

    Args:
        landing: where the files go.
        reader: the frames after the announcement.
        writer: takes the answers.
        life: told until the first answer: what an earlier try left may take its time to be removed.

    Raises:
        TransferError: the stream broke, is not what was announced, or what was read back is something else.
        RefusedError: the copy is not for this sender to fill.
        StorageError: the file system or the journal refused.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="receiver")
    try:
        await _receive(_Calls(thread, landing), landing, reader, writer, life)
    finally:
        try:
            await completed(thread.submit(landing.close))
        finally:
            thread.shutdown(wait=False)


class _Calls:
    """Calls of a landing, one at a time, in its thread."""

    def __init__(self, thread: ThreadPoolExecutor, landing: Landing) -> None:
        self._thread = thread
        self._landing = landing

    async def __call__(self, call: Callable[[], T]) -> T:
        return await finished(self._thread.submit(call), self._landing.stop)


async def _receive(call: _Calls, landing: Landing, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, life: SignsOfLife) -> None:
    begun = await call(landing.begin)
    life.stop()
    if not begun:
        await tell(writer, Answer(state=AnswerState.VERIFIED))
        return
    await tell(writer, Answer(state=AnswerState.READY))
    while (got := await read_frame(reader)).type == FrameType.DATA:
        await call(partial(landing.write, parse_data(got)))
    theirs = parse(Digests, got, FrameType.END)
    loop = asyncio.get_running_loop()

    def on_alive() -> None:
        loop.call_soon_threadsafe(writer.write, frame(FrameType.ALIVE))

    digest = await call(partial(landing.finish, theirs.files, on_alive))
    await tell(writer, Answer(state=AnswerState.VERIFIED, digest=digest))
