"""What a part is known to hold: the hash of each chunk that is durable in it, in a file beside it.

A record is the chunk's index, its BLAKE3, and a check of the two; later records stand for earlier ones, and a hash of zeros takes
a chunk back. A record is written only when its chunk is durable, and taken back, durably, before its chunk is written over: what
a manifest tells may be less than what is there, never more. What was torn by a power cut ends the file: it is cut off there.
"""

import os
import struct
from collections.abc import Iterable, Mapping

from blake3 import blake3

_RECORD = struct.Struct(">I32s4s")
_UNKNOWN = bytes(32)


class Manifest:
    """The manifest in an open file. Its methods raise `OSError`; one thread uses it."""

    def __init__(self, fd: int) -> None:
        """Read it; what follows the first record that is none is cut off.

        Args:
            fd: open to read and write.
        """
        self._fd = fd
        self._hashes: dict[int, bytes] = {}
        whole = 0
        with open(fd, "rb", closefd=False) as file:
            file.seek(0)
            while len(record := file.read(_RECORD.size)) == _RECORD.size:
                index, digest, check = _RECORD.unpack(record)
                if check != _check(index, digest):
                    break
                self._take(index, digest)
                whole += _RECORD.size
        os.ftruncate(fd, whole)

    @property
    def hashes(self) -> Mapping[int, bytes]:
        """BLAKE3 of each chunk that is known, by index."""
        return self._hashes

    def note(self, hashes: Mapping[int, bytes]) -> None:
        """Tell of chunks that are durable."""
        self._append(hashes.items())

    def forget(self, indices: Iterable[int]) -> None:
        """Take chunks back; durable when this returns."""
        known = [(index, _UNKNOWN) for index in indices if index in self._hashes]
        if known:
            self._append(known)
            os.fsync(self._fd)

    def replace(self, hashes: Mapping[int, bytes]) -> None:
        """Tell of these chunks, which are durable, and of no other; durable when this returns."""
        os.ftruncate(self._fd, 0)
        os.fsync(self._fd)
        self._hashes.clear()
        self._append(hashes.items())
        os.fsync(self._fd)

    def _append(self, entries: Iterable[tuple[int, bytes]]) -> None:
        taken = list(entries)
        records = b"".join(_RECORD.pack(index, digest, _check(index, digest)) for index, digest in taken)
        whole = end = os.fstat(self._fd).st_size
        try:
            while records:
                written = os.pwrite(self._fd, records, end)
                records, end = records[written:], end + written
        except OSError:
            os.ftruncate(self._fd, whole)  # a torn record would hide all that come after it
            raise
        for index, digest in taken:
            self._take(index, digest)

    def _take(self, index: int, digest: bytes) -> None:
        if digest == _UNKNOWN:
            self._hashes.pop(index, None)
        else:
            self._hashes[index] = digest


def _check(index: int, digest: bytes) -> bytes:
    return blake3(index.to_bytes(4, "big") + digest).digest(length=4)
