"""The sending end of a copy, at the source: it reads, hashes, and sends what the target does not have."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kubeferry.agent.storage.errors import StorageError, storage_errors
from kubeferry.agent.storage.instance import foreign
from kubeferry.agent.storage.space import allocated_bytes
from kubeferry.agent.storage.sparse import extents
from kubeferry.agent.transfer import tls
from kubeferry.agent.transfer.digest import Chunk, ImageDigest, chunks, combined, count_of, hash_of, is_zero
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.processes import SendJob, Sent
from kubeferry.agent.transfer.ssh import Line, connect, run
from kubeferry.agent.transfer.throttle import PIECE, Throttle
from kubeferry.agent.transfer.vocabulary import RECEIVE
from kubeferry.agent.transfer.wire import (
    ALIVE_EVERY,
    ALIVE_TIMES,
    ROUNDS,
    Announcement,
    Answer,
    AnswerState,
    Digests,
    FileHeader,
    FrameType,
    Request,
    broken,
    chunk_frame,
    frame,
    message,
    parse,
    parse_known,
    zeros_frame,
)
from kubeferry.api import reasons

Progress = Callable[[int, int, int], None]
"""Told how many bytes of data the target has, how many there are, holes left out, and how many went over the network."""

_TOLD = frozenset(
    {
        reasons.NOT_INCOMING,
        reasons.INSUFFICIENT_DISK,
        reasons.STORAGE_ERROR,
        reasons.FOREIGN_FILES,
        reasons.DIGEST_MISMATCH,
        reasons.SOURCE_UNUSABLE,
        reasons.DATA_PORT_UNREACHABLE,
        reasons.DATA_PORTS_BUSY,
    }
)
"""Reasons that a target may give to this host's task. Others mean the host whose task it is: HistoryDiverged, say, would hold up the
VM for what a peer has said."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A file to send, open."""

    name: str
    fd: int
    status: os.stat_result
    data: int
    """Bytes of data in it, holes left out."""


def send(job: SendJob, throttle: Throttle, on_progress: Progress) -> Sent:
    """Send a stopped VM's files, and wait until the target has verified them.

    Args:
        job: what is to be sent where.
        throttle: how fast.
        on_progress: told at the start, as data goes, and at each sign of life.

    Raises:
        TransferError: the target can't be reached, refuses, or has read back something else twice (`DigestMismatch`); the stream broke.
        StorageError: a file is missing, is none, is another than the journal tells of, or changed while it was read.
    """
    own = tls.make_identity()
    with (
        opened(Path(job.directory), job.names, job.inodes) as sources,
        connect(job.endpoint, Path(job.identity)) as transport,
        run(transport, RECEIVE) as line,
    ):
        copy = Copy(sources, throttle, on_progress)
        line.send(message(_announcement(job.request, sources, own.certificate)))
        answer = answered(line, copy.alive)
        if answer.state == AnswerState.VERIFIED:
            return Sent(bytes_sent=0)
        expect(answer, AnswerState.READY)
        if answer.data is None:
            raise broken("the target does not tell where the data may come; see that both agents are of one version")
        try:
            with tls.connect(job.endpoint.address, answer.data, own) as stream:
                ours = combined(copy.run(stream))
        except TransferError as error:
            raise _refusal_behind(line, error) from error
        answer = answered(line, copy.alive)
        expect(answer, AnswerState.VERIFIED)
        if answer.digest != ours:
            raise TransferError(reasons.DIGEST_MISMATCH, f"the target has read back {answer.digest}, {ours} was sent", retryable=True)
        for source in sources:  # one that was read long ago may have been written to since
            _check_unchanged(source)
        return Sent(bytes_sent=copy.sent, digest=ours)


class Copy:
    """The files on their way."""

    def __init__(self, sources: Sequence[_Source], throttle: Throttle, on_progress: Progress) -> None:
        """Of these files, at that speed; `on_progress` is told as of `send`."""
        self._sources = sources
        self._throttle = throttle
        self._on_progress = on_progress
        self._total = sum(source.data for source in sources)
        self._done = 0
        self.sent = 0
        """Bytes of data that went over the network."""

    def alive(self) -> None:
        """The target is at work, although no byte moves."""
        self._on_progress(self._done, self._total, self.sent)

    def run(self, stream: tls.Stream) -> dict[str, str]:
        """Rounds, until the target has read back what was sent; the digest of each file."""
        for _ in range(ROUNDS):
            known = _known(stream, self._sources)
            self._done = 0
            self.alive()
            digests = {}
            for place, source in enumerate(self._sources):
                with storage_errors(f"read {source.name}"):
                    digests[source.name] = _File(self, stream, place, source).send(known[place])
                _check_unchanged(source)
            stream.send(message(Digests(files=digests), FrameType.END))
            if self._same(stream):
                return digests
        raise TransferError(
            reasons.DIGEST_MISMATCH,
            "what the target has read back is twice not what was sent; see the kernel logs of both hosts",
            retryable=True,
        )

    def _same(self, stream: tls.Stream) -> bool:
        reads = sum(count_of(source.status.st_size) // ALIVE_EVERY for source in self._sources)
        answer = answered(stream, self.alive, reads)
        if answer.state == AnswerState.DIFFERS:
            return False
        expect(answer, AnswerState.SAME)
        return True

    def had(self, count: int) -> None:
        """The target has so many bytes of data already."""
        self._done += count
        self.alive()

    def pass_on(self, stream: tls.Stream, piece: memoryview) -> None:
        """Send bytes of data."""
        for start in range(0, len(piece), PIECE):
            some = piece[start : start + PIECE]
            self._throttle.take(len(some))
            stream.send(some)
            self.sent += len(some)
            self.had(len(some))


class _File:
    """One file, in one round."""

    def __init__(self, copy: Copy, stream: tls.Stream, place: int, source: _Source) -> None:
        self._copy = copy
        self._stream = stream
        self._place = place
        self._source = source
        self._zeros_from = 0
        self._only_read = 0

    def send(self, known: dict[int, bytes]) -> str:
        """Send what the target lacks; the digest of the file."""
        size = self._source.status.st_size
        image = ImageDigest(size)
        for chunk in chunks(self._source.fd, size):
            found = hash_of(chunk.content)
            image.add(chunk.index, found)
            data = sum(end - start for start, end in chunk.extents)
            if is_zero(found, len(chunk.content)):
                self._read_only(data)
                continue
            self._send_zeros(chunk.index)
            self._zeros_from = chunk.index + 1
            if known.get(chunk.index) == found:
                self._read_only(data)
            else:
                self._send_chunk(chunk, found)
        self._send_zeros(count_of(size))
        return image.hexdigest()

    def _send_zeros(self, until: int) -> None:
        if self._zeros_from < until:
            self._stream.send(zeros_frame(self._place, self._zeros_from, until))

    def _send_chunk(self, chunk: Chunk, found: bytes) -> None:
        stretches = [(start - chunk.start, end - chunk.start) for start, end in chunk.extents]
        head, *content = chunk_frame(self._place, chunk.index, found, chunk.content, stretches)
        self._stream.send(head)
        for piece in content:
            self._copy.pass_on(self._stream, piece)

    def _read_only(self, data: int) -> None:
        self._copy.had(data)
        self._only_read += 1
        if self._only_read % ALIVE_EVERY == 0:
            self._stream.send(frame(FrameType.ALIVE))


def answered(line: Line | tls.Stream, on_alive: Callable[[], None], times: int = ALIVE_TIMES) -> Answer:
    """The target's next answer; while it is at work, it says so.

    Args:
        line: where it comes.
        on_alive: called at each sign of life.
        times: how many of those there may be.

    Raises:
        TransferError: `TransferBroken`: the stream broke, something else came, or nothing but signs of life.
    """
    for _ in range(times + 1):
        if (got := line.receive()).type != FrameType.ALIVE:
            return parse(Answer, got)
        on_alive()
    raise broken(
        f"the target said {times + 1} times that it is at work, and has not answered; see its agent's log, and the load of its disks"
    )


def expect(answer: Answer, state: AnswerState) -> None:
    """Go on, if the target gave that answer.

    Raises:
        TransferError: it refused, for its own reason, or gave another.
    """
    if answer.state != state:
        raise _refusal(answer)


def _refusal(answer: Answer) -> TransferError:
    if answer.error is None:
        return broken(f"the target answered {answer.state}, which was not asked; see that both agents are of one version")
    told = answer.error
    if told.reason in _TOLD:
        return TransferError(told.reason, f"the target refuses: {told.message}", retryable=told.retryable)
    return TransferError(reasons.TRANSFER_BROKEN, f"the target refuses, {told.reason}: {told.message}", retryable=told.retryable)


def _refusal_behind(line: Line, error: TransferError) -> TransferError:
    """Why the target ended the data stream, if it says so: its disk is full, say."""
    try:
        return _refusal(parse(Answer, line.last_frame()))
    except TransferError:
        return error


def _known(stream: tls.Stream, sources: Sequence[_Source]) -> list[dict[int, bytes]]:
    """What the target has of each file."""
    known: list[dict[int, bytes]] = [{} for _ in sources]
    while (got := stream.receive()).type == FrameType.KNOWN:
        place, hashes = parse_known(got)
        if place >= len(sources):
            raise broken(f"the target tells of file {place}, {len(sources)} were announced")
        chunks_there = count_of(sources[place].status.st_size)
        if not hashes or hashes.keys() & known[place].keys() or max(hashes) >= chunks_there:
            raise broken(f"the target tells of chunks of {sources[place].name} twice, of none, or of more than the {chunks_there} it has")
        known[place] |= hashes
    if got.type != FrameType.GO:
        raise broken(f"a frame of type {got.type.name} came, KNOWN or GO was expected; see that both agents are of one version")
    return known


@contextmanager
def opened(directory: Path, names: Sequence[str], inodes: Mapping[str, int]) -> Iterator[Sequence[_Source]]:
    """The files of that directory, open; raises `StorageError` where one is none, or another than the journal tells of."""
    with ExitStack() as stack:
        with storage_errors(f"open the files in {directory}"):
            parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, parent)
            sources = [_open(stack, parent, directory / name, inodes.get(name)) for name in names]
        yield sources


def _open(stack: ExitStack, parent: int, path: Path, inode: int | None) -> _Source:
    # O_NONBLOCK: a pipe without a writer would hold this for ever.
    fd = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    stack.callback(os.close, fd)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(reasons.STORAGE_ERROR, f"{path} is no regular file; find out who put it there")
    if inode not in (None, status.st_ino):
        raise foreign(path, f"its inode is {status.st_ino}, the journal tells of {inode}")
    # QEMU writes past the page cache: what is hashed must be what the disk holds.
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return _Source(path.name, fd, status, sum(end - start for start, end in extents(fd, status.st_size)))


def _announcement(request: Request, sources: Sequence[_Source], certificate: str) -> Announcement:
    files = tuple(FileHeader(name=source.name, size=source.status.st_size, allocated=allocated_bytes(source.status)) for source in sources)
    return Announcement(request=request, files=files, certificate=certificate)


def _check_unchanged(source: _Source) -> None:
    now = os.fstat(source.fd)
    if (now.st_size, now.st_mtime_ns) != (source.status.st_size, source.status.st_mtime_ns):
        message = f"{source.name} changed while it was sent: its size or its time of modification is another; nobody may write to it"
        raise StorageError(reasons.SOURCE_UNUSABLE, message, retryable=True)
