"""The receiving process of a copy: what comes is checked, written, noted in the manifest once it is durable, and at last read back.

It names nothing and journals nothing: it is given its files open, and its agent judges what it tells.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress

from kubeferry.agent.storage.errors import StorageError, storage_errors
from kubeferry.agent.storage.sparse import punch
from kubeferry.agent.transfer import tls
from kubeferry.agent.transfer.digest import CHUNK, count_of, digest, hash_of, length_of
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.manifest import Manifest
from kubeferry.agent.transfer.processes import PartJob, ReceiveJob, ReceiveWord
from kubeferry.agent.transfer.wire import (
    ALIVE_EVERY,
    ROUNDS,
    Answer,
    AnswerState,
    ChunkData,
    Digests,
    Frame,
    FrameType,
    Zeros,
    broken,
    frame,
    known_frames,
    message,
    parse,
    parse_chunk,
    parse_zeros,
)
from kubeferry.api import reasons

SYNC_BYTES = 64 << 20
SYNC_SECONDS = 2.0
"""After so many bytes or seconds, what was written is made durable and noted: no more is sent again after a kill."""


def fill(job: ReceiveJob) -> ReceiveWord:
    """Take the data of a copy.

    Returns:
        Digest of each file, as read back and as sent.

    Raises:
        TransferError: the sender does not come, the stream broke or is not what was announced, or what was read back is twice
            something else (`DigestMismatch`).
        StorageError: `InsufficientDisk`, or the file system refused.
    """
    listener = socket.socket(fileno=job.listener)
    with tls.accept(listener, job.own, job.peer, job.token) as stream:
        parts = [Part(part) for part in job.parts]
        try:
            return _rounds(stream, parts)
        except (TransferError, StorageError):
            for part in parts:  # the next try needs not send it again
                with suppress(StorageError):
                    part.note()
            raise


def _rounds(stream: tls.Stream, parts: Sequence["Part"]) -> ReceiveWord:
    for _ in range(ROUNDS):
        for place, part in enumerate(parts):
            for known in known_frames(place, part.known):
                stream.send(known)
        stream.send(frame(FrameType.GO))
        theirs = _round(stream, parts)
        digests = {part.name: part.read_back(lambda: stream.send(frame(FrameType.ALIVE))) for part in parts}
        if digests == theirs:
            stream.send(message(Answer(state=AnswerState.SAME)))
            return ReceiveWord(digests=digests, sent=theirs)
        stream.send(message(Answer(state=AnswerState.DIFFERS)))
    raise TransferError(
        reasons.DIGEST_MISMATCH,
        "what was read back is twice not what was sent; see this host's and the source's kernel log",
        retryable=True,
    )


def _round(stream: tls.Stream, parts: Sequence["Part"]) -> dict[str, str]:
    """Take what the sender finds missing; its digests."""

    def part(place: int) -> Part:
        if place >= len(parts):
            raise broken(f"data of file {place} came, {len(parts)} files were announced")
        return parts[place]

    while (got := stream.receive_news()).type != FrameType.END:
        match got.type:
            case FrameType.CHUNK:
                chunk = parse_chunk(got)
                part(chunk.file).write(chunk)
            case FrameType.ZEROS:
                zeros = parse_zeros(got)
                part(zeros.file).clear(zeros)
            case _:
                raise broken(f"a frame of type {got.type.name} came, a chunk was expected; see that both agents are of one version")
    return _digests(got, parts)


def _digests(got: Frame, parts: Sequence["Part"]) -> dict[str, str]:
    theirs = parse(Digests, got, FrameType.END).files
    if theirs.keys() != {part.name for part in parts}:
        raise broken(f"digests of {', '.join(sorted(theirs))} came; one for each announced file was expected")
    return theirs


class Part:
    """A file that is being filled, and its manifest."""

    def __init__(self, job: PartJob, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = job.header.name
        self._size = job.header.size
        self._fd = job.part
        self._clean = job.fresh  # what was not written reads as zeros
        self._clock = clock
        self._written: dict[int, bytes] = {}
        self._bytes = 0
        self._noted_at = clock()
        with self._telling("read the manifest of"):
            self._manifest = Manifest(job.manifest)

    @property
    def known(self) -> Mapping[int, bytes]:
        """The chunks that are durable in it."""
        return {index: found for index, found in self._manifest.hashes.items() if index < count_of(self._size)}

    def write(self, chunk: ChunkData) -> None:
        """Write a chunk.

        Raises:
            TransferError: `TransferBroken`: it lies outside of the file; `DigestMismatch`: it is not what its hash tells.
            StorageError: `InsufficientDisk`, or the file system refused.
        """
        length = length_of(chunk.index, self._size)
        if length == 0 or (chunk.stretches and chunk.stretches[-1][0] + len(chunk.stretches[-1][1]) > length):
            raise broken(f"chunk {chunk.index} of {self.name} came, which reaches behind its {self._size} bytes")
        if _hash(chunk, length) != chunk.hash:
            message = f"chunk {chunk.index} of {self.name} is not what was read at the source; see the kernel logs of both hosts"
            raise TransferError(reasons.DIGEST_MISMATCH, message, retryable=True)
        start = chunk.index * CHUNK
        with self._telling("write"):
            self._unknown(chunk.index, chunk.index + 1)
            if not self._clean:
                punch(self._fd, start, start + length)
            for at, content in chunk.stretches:
                _write(self._fd, content, start + at)
        self._written[chunk.index] = chunk.hash
        self._bytes += sum(len(content) for _, content in chunk.stretches)
        if self._bytes >= SYNC_BYTES or self._clock() - self._noted_at >= SYNC_SECONDS:
            self.note()

    def clear(self, zeros: Zeros) -> None:
        """Have a range read as zeros.

        Raises:
            TransferError: `TransferBroken`: it lies outside of the file.
            StorageError: the file system refused.
        """
        if not zeros.start < zeros.end <= count_of(self._size):
            raise broken(f"zeros from chunk {zeros.start} to {zeros.end} of {self.name} came, it has {count_of(self._size)} chunks")
        with self._telling("clear"):
            self._unknown(zeros.start, zeros.end)
            if not self._clean:
                punch(self._fd, zeros.start * CHUNK, min(zeros.end * CHUNK, self._size))

    def note(self) -> None:
        """Make durable what was written, and then note it.

        Raises:
            StorageError: `InsufficientDisk`, or the file system refused.
        """
        # Taken first: the system tells only once that it has lost what was written, and to ask again is to be told that all is well.
        written, self._written = self._written, {}
        self._bytes = 0
        with self._telling("make durable"):
            os.fdatasync(self._fd)
            self._manifest.note(written)
        self._noted_at = self._clock()

    def read_back(self, on_alive: Callable[[], None]) -> str:
        """The digest of what the disk holds now. The manifest tells of exactly that afterwards.

        Raises:
            StorageError: the file system refused.
        """
        self.note()
        count, found = 0, dict[int, bytes]()

        def on_chunk() -> None:
            nonlocal count
            count += 1
            if count % ALIVE_EVERY == 0:
                on_alive()

        with self._telling("read back"):
            os.fsync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            whole = digest(self._fd, on_chunk, found)
            if found != self._manifest.hashes:
                self._manifest.replace(found)
        self._clean = False
        return whole

    def _unknown(self, start: int, end: int) -> None:
        """No chunk of the range is known any more: it is going to be written over."""
        known = self._manifest.hashes
        self._manifest.forget([index for index in known if start <= index < end] if end - start > len(known) else range(start, end))
        for index in [index for index in self._written if start <= index < end]:
            del self._written[index]

    def _telling(self, doing: str) -> AbstractContextManager[None]:
        return storage_errors(f"{doing} {self.name}")


def _hash(chunk: ChunkData, length: int) -> bytes:
    """BLAKE3 of a chunk with its holes."""
    if len(chunk.stretches) == 1 and len(chunk.stretches[0][1]) == length:
        return hash_of(chunk.stretches[0][1])
    content = bytearray(length)
    for at, stretch in chunk.stretches:
        content[at : at + len(stretch)] = stretch
    return hash_of(content)


def _write(fd: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(fd, content, offset)
        content, offset = content[written:], offset + written
