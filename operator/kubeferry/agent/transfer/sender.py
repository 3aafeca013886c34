"""The sending end of a copy, at the source: it reads, hashes and sends, in a thread."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kubeferry.agent.storage.errors import StorageError, storage_errors
from kubeferry.agent.storage.space import allocated_bytes
from kubeferry.agent.storage.sparse import extents
from kubeferry.agent.transfer.digest import ImageDigest, chunks, combined
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.ssh import Line, connect, run
from kubeferry.agent.transfer.vocabulary import MAKE_DIRECTORY, RECEIVE
from kubeferry.agent.transfer.wire import (
    DATA_LIMIT,
    Announcement,
    Answer,
    AnswerState,
    Digests,
    FileHeader,
    FrameType,
    Request,
    broken,
    data,
    message,
    parse,
)
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint


@dataclass(frozen=True, slots=True)
class Sent:
    """A copy that the target has verified."""

    bytes_copied: int
    """Bytes of data that were sent, holes left out; 0 where the target had it whole already."""
    digest: str | None
    """Of all files together; None where the target had them whole already."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A file to send, open."""

    name: str
    fd: int
    status: os.stat_result
    data: int
    """Bytes of data in it, holes left out."""


def make_directory(endpoint: SshEndpoint, identity: Path, request: Request) -> None:
    """Have the target make the VM's instance directory.

    Raises:
        TransferError: the target can't be reached, or refuses; its own reason is told then.
    """
    with connect(endpoint, identity) as transport, run(transport, MAKE_DIRECTORY) as line:
        line.send(message(request))
        _expect(_answer(line, _go_on_always), AnswerState.MADE)


def send(
    endpoint: SshEndpoint,
    identity: Path,
    request: Request,
    directory: Path,
    names: Sequence[str],
    on_progress: Callable[[int, int], None],
    stop: Callable[[], bool],
) -> Sent:
    """Send a stopped VM's files, and wait until the target has verified them.

    Args:
        endpoint: the target.
        identity: path of this host's private key.
        request: which copy is meant.
        directory: the VM's instance directory.
        names: of the files to send.
        on_progress: told bytes sent and bytes to send, holes left out, at the start, after each frame, and at each sign of life.
        stop: asked for each chunk, and for each sign of life of the target; True ends the copy.

    Raises:
        TransferError: the target can't be reached, refuses, or has read back something else (`DigestMismatch`); the stream broke;
            `stop` said so.
        StorageError: a file is missing, is none, or changed while it was read.
    """
    _go_on(stop)
    with _opened(directory, names) as sources, connect(endpoint, identity) as transport, run(transport, RECEIVE) as line:
        copy = _Copy(line, sources, on_progress, stop)
        line.send(message(_announcement(request, sources)))
        answer = _answer(line, copy.alive)
        if answer.state == AnswerState.VERIFIED:
            return Sent(0, None)
        _expect(answer, AnswerState.READY)
        return copy.run()


class _Copy:
    """The files on their way."""

    def __init__(self, line: Line, sources: Sequence[_Source], on_progress: Callable[[int, int], None], stop: Callable[[], bool]) -> None:
        self._line = line
        self._sources = sources
        self._on_progress = on_progress
        self._stop = stop
        self._done = 0
        self._total = sum(source.data for source in sources)

    def run(self) -> Sent:
        self._on_progress(0, self._total)
        try:
            digests = {}
            for index, source in enumerate(self._sources):
                with storage_errors(f"read {source.name}"):
                    digests[source.name] = self._file(index, source)
            self._line.send(message(Digests(files=digests), FrameType.END))
        except TransferError as error:
            refusal = self._refusal_behind(error)
            if refusal is None:
                raise
            raise refusal from error
        answer = _answer(self._line, self.alive)
        _expect(answer, AnswerState.VERIFIED)
        if answer.digest != (ours := combined(digests)):
            raise TransferError(reasons.DIGEST_MISMATCH, f"the target has read back {answer.digest}, {ours} was sent", retryable=True)
        return Sent(self._done, ours)

    def alive(self) -> None:
        """The target is at work, although no byte moves."""
        _go_on(self._stop)
        self._on_progress(self._done, self._total)

    def _file(self, index: int, source: _Source) -> str:
        """Send a file; its digest."""
        size = source.status.st_size
        image = ImageDigest(size)
        for chunk in chunks(source.fd, size):
            _go_on(self._stop)
            image.add(chunk)
            content = memoryview(chunk.content)
            for start, end in chunk.extents:
                for offset in range(start, end, DATA_LIMIT):
                    stretch = content[offset - chunk.start : min(offset + DATA_LIMIT, end) - chunk.start]
                    self._send(index, offset, stretch)
        _check_unchanged(source)
        return image.hexdigest()

    def _send(self, index: int, offset: int, stretch: memoryview) -> None:
        if self._line.has_frame():
            raise _refusal(parse(Answer, self._line.receive()))
        self._line.send(data(index, offset, stretch))
        self._done += len(stretch)
        self._on_progress(self._done, self._total)

    def _refusal_behind(self, error: TransferError) -> TransferError | None:
        """Why the target ended the stream, where it said so before: its disk is full, say."""
        if error.reason != reasons.TRANSFER_BROKEN or not self._line.has_frame():
            return None
        try:
            return _refusal(parse(Answer, self._line.receive()))
        except TransferError:
            return None


@contextmanager
def _opened(directory: Path, names: Sequence[str]) -> Iterator[Sequence[_Source]]:
    with ExitStack() as stack:
        with storage_errors(f"open the files in {directory}"):
            parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, parent)
            sources = [_open(stack, parent, directory, name) for name in names]
        yield sources


def _open(stack: ExitStack, parent: int, directory: Path, name: str) -> _Source:
    # O_NONBLOCK: a pipe without a writer would hold the thread for ever.
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    stack.callback(os.close, fd)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(reasons.STORAGE_ERROR, f"{directory / name} is no regular file; find out who put it there")
    # QEMU writes past the page cache: what is hashed must be what the disk holds.
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return _Source(name, fd, status, sum(end - start for start, end in extents(fd, status.st_size)))


def _announcement(request: Request, sources: Sequence[_Source]) -> Announcement:
    files = tuple(FileHeader(name=source.name, size=source.status.st_size, allocated=allocated_bytes(source.status)) for source in sources)
    return Announcement(request=request, files=files)


def _check_unchanged(source: _Source) -> None:
    now = os.fstat(source.fd)
    if (now.st_size, now.st_mtime_ns) != (source.status.st_size, source.status.st_mtime_ns):
        message = f"{source.name} changed while it was sent: its size or its time of modification is another; nobody may write to it"
        raise StorageError(reasons.SOURCE_UNUSABLE, message, retryable=True)


def _answer(line: Line, on_alive: Callable[[], None]) -> Answer:
    """The target's next answer; while it is at work, it says so."""
    while (got := line.receive()).type == FrameType.ALIVE:
        on_alive()
    return parse(Answer, got)


def _expect(answer: Answer, state: AnswerState) -> None:
    if answer.state != state:
        raise _refusal(answer)


def _refusal(answer: Answer) -> TransferError:
    if answer.error is None:
        return broken(f"the target answered {answer.state}, which was not asked; see that both agents are of one version")
    return TransferError(answer.error.reason, f"the target refuses: {answer.error.message}", retryable=answer.error.retryable)


def _go_on(stop: Callable[[], bool]) -> None:
    if stop():
        raise broken("the copy was stopped at this host")


def _go_on_always() -> None:
    """The `on_alive` of what is short."""
