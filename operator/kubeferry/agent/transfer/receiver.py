"""The receiving end of a copy, at the target: what is said to the sender, and who does what.

What is done with names and journal is `landing`'s, what is done with the data is a process's of its own (`filling`).
"""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kubeferry.agent.transfer import tls
from kubeferry.agent.transfer.children import Children
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.landing import Landing
from kubeferry.agent.transfer.processes import PartJob, ReceiveJob, ReceiveWord
from kubeferry.agent.transfer.threads import completed
from kubeferry.agent.transfer.vocabulary import RECEIVING
from kubeferry.agent.transfer.wire import (
    ALIVE_SECONDS,
    ALIVE_TIMES,
    Answer,
    AnswerState,
    DataPort,
    Frame,
    FrameType,
    broken,
    frame,
    message,
    next_frame,
)

T = TypeVar("T")

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


class Receiver:
    """Takes copies."""

    def __init__(self, children: Children, address: str, ports: range) -> None:
        """For one host.

        Args:
            children: starts what takes the data.
            address: of this host, where data may come.
            ports: for it.
        """
        self._children = children
        self._address = address
        self._ports = ports

    async def receive(
        self, landing: Landing, peer: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, life: SignsOfLife
    ) -> None:
        """Take a copy. However this ends, neither a thread nor a process works on its files any more.

        Args:
            landing: where the files go.
            peer: the sender's certificate.
            reader: ends when the sender gives up.
            writer: takes the answers.
            life: told until the first answer: the file system may take its time.

        Raises:
            TransferError: the stream broke, is not what was announced, or what was read back is something else.
            RefusedError: the copy is not for this sender to fill.
            StorageError: the file system or the journal refused.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="receiver")
        try:
            begun = await completed(thread.submit(landing.begin))
            life.stop()
            digest = None
            if begun:
                filled = await self._filled(landing, peer, reader, writer)
                digest = await completed(thread.submit(landing.publish, filled.digests or {}, filled.sent or {}))
            await tell(writer, Answer(state=AnswerState.VERIFIED, digest=digest))
        finally:
            try:
                await completed(thread.submit(landing.close))
            finally:
                thread.shutdown(wait=False)

    async def _filled(self, landing: Landing, peer: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> ReceiveWord:
        own, token = tls.make_identity(), tls.make_token()
        with tls.listen(self._address, self._ports) as listener:
            job = ReceiveJob(
                listener=listener.fileno(),
                parts=tuple(PartJob(header=part.header, part=part.fd, manifest=part.manifest, fresh=part.fresh) for part in landing.parts),
                own=own,
                peer=peer,
                token=token,
            )
            descriptors = [listener.fileno(), *(fd for part in landing.parts for fd in (part.fd, part.manifest))]
            async with self._children.started(RECEIVING, job, descriptors) as child:
                data = DataPort(port=listener.getsockname()[1], token=token, certificate=own.certificate)
                listener.close()
                await tell(writer, Answer(state=AnswerState.READY, data=data))
                word = await unless_ended(reader, child.word(ReceiveWord))
        if word.error is not None:
            raise TransferError(word.error.reason, word.error.message, retryable=word.error.retryable)
        return word


async def unless_ended(reader: asyncio.StreamReader, work: Coroutine[Any, Any, T]) -> T:
    """What comes of the work, unless the sender gives up before: it has nothing more to say, so whatever it says is that."""
    doing, ended = asyncio.ensure_future(work), asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({doing, ended}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
    finally:
        doing.cancel()
        ended.cancel()
    raise broken("the sender gave up, or is gone; see its agent's log")
