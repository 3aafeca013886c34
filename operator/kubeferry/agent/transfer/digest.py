"""The digest of a whole image: the same for the same content, wherever it has holes.

An image is cut into chunks of 4 MiB. Its digest is the BLAKE3 of its size (8 bytes, little-endian) and of the BLAKE3 of every
chunk in the order of their places, holes included as the zeros that they read as. A hole costs no reading and no hashing.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from blake3 import blake3

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.sparse import extents
from kubeferry.api import reasons

CHUNK = 4 << 20
"""Bytes of a chunk; the last one of an image may be shorter."""

_ZERO = blake3(bytes(CHUNK)).digest()
_BATCH = 4096
"""Hashes of holes that are taken in at a time: 128 KiB."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk that holds data."""

    index: int
    content: bytes
    """All of it; holes in it are zeros."""
    extents: tuple[tuple[int, int], ...]
    """Start and end, in the file, of each stretch of data in it."""

    @property
    def start(self) -> int:
        """Where in the file it begins."""
        return self.index * CHUNK


def hash_of(content: bytes | bytearray | memoryview) -> bytes:
    """BLAKE3 of a chunk."""
    return blake3(content).digest()


def length_of(index: int, size: int) -> int:
    """Bytes of a chunk of an image of that size; 0: it has no such chunk."""
    return max(0, min(CHUNK, size - index * CHUNK))


def count_of(size: int) -> int:
    """Chunks of an image of that size."""
    return -(-size // CHUNK)


def is_zero(digest: bytes, length: int) -> bool:
    """Whether that is the hash of so many zeros."""
    return digest == (_ZERO if length == CHUNK else hash_of(bytes(length)))


class ImageDigest:
    """The digest of an image whose chunks come in order; those that do not come are zeros."""

    def __init__(self, size: int) -> None:
        """`size` is the image's, in bytes."""
        self._size = size
        self._next = 0
        self._hash = blake3(size.to_bytes(8, "little"))

    def add(self, index: int, digest: bytes) -> None:
        """Take in the hash of the next chunk that holds data."""
        self._zeros(index)
        self._hash.update(digest)
        self._next = index + 1

    def hexdigest(self) -> str:
        """The digest; no chunk may come afterwards."""
        whole, rest = divmod(self._size, CHUNK)
        self._zeros(whole)
        if rest and self._next == whole:
            self._hash.update(hash_of(bytes(rest)))
        return self._hash.hexdigest()

    def _zeros(self, until: int) -> None:
        while self._next < until:
            count = min(until - self._next, _BATCH)
            self._hash.update(_ZERO * count)
            self._next += count


def digest(fd: int, on_chunk: Callable[[], None], known: dict[int, bytes] | None = None) -> str:
    """The digest of an open file.

    Args:
        fd: open for reading; its offset is moved.
        on_chunk: called before each chunk that is read; what it raises is passed on.
        known: takes the hash of each chunk that holds data, by index.

    Raises:
        StorageError: `SourceUnusable`: the file shrank meanwhile.
        OSError: it can't be read.
    """
    size = os.fstat(fd).st_size
    image = ImageDigest(size)
    for chunk in chunks(fd, size):
        on_chunk()
        found = hash_of(chunk.content)
        image.add(chunk.index, found)
        if known is not None:
            known[chunk.index] = found
    return image.hexdigest()


def combined(digests: Mapping[str, str]) -> str:
    """One digest of several files, given the digest of each by name."""
    together = blake3()
    for name, hexadecimal in sorted(digests.items()):
        together.update(f"{name}\0{hexadecimal}\0".encode())
    return together.hexdigest()


def chunks(fd: int, size: int) -> Iterator[Chunk]:
    """Every chunk that holds data, in order.

    Raises:
        StorageError: `SourceUnusable`: the file shrank meanwhile.
        OSError: it can't be read.
    """
    pending: list[tuple[int, int]] = []
    index = 0
    for start, end in extents(fd, size):
        while start < end:
            if pending and start // CHUNK != index:
                yield _read(fd, size, index, pending)
                pending = []
            index = start // CHUNK
            stop = min(end, (index + 1) * CHUNK)
            pending.append((start, stop))
            start = stop
    if pending:
        yield _read(fd, size, index, pending)


def _read(fd: int, size: int, index: int, stretches: list[tuple[int, int]]) -> Chunk:
    start = index * CHUNK
    length = min(CHUNK, size - start)
    content = os.pread(fd, length, start)
    if len(content) != length:
        message = f"the file ended at byte {start + len(content)}, {size} were expected; nobody may write to it while it is copied"
        raise StorageError(reasons.SOURCE_UNUSABLE, message, retryable=True)
    return Chunk(index, content, tuple(stretches))
