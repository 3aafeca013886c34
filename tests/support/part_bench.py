"""A part and its manifest, as a receiving process has them open."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from manual_clock import ManualClock

from kubeferry.agent.transfer.digest import CHUNK, digest, hash_of
from kubeferry.agent.transfer.filling import Part
from kubeferry.agent.transfer.manifest import Manifest
from kubeferry.agent.transfer.processes import PartJob
from kubeferry.agent.transfer.wire import ChunkData, FileHeader

BLOCK = 64 << 10
"""Bytes of data: a multiple of any file system's block."""
SIZE = 3 * CHUNK + BLOCK
"""Three chunks, and a short one."""


def nothing() -> None: ...


def chunk(index: int, content: Mapping[int, bytes], length: int = CHUNK, *, digest: bytes | None = None) -> ChunkData:
    """A chunk with such data, by its place in the chunk, as the wire gives it."""
    whole = bytearray(length)
    for at, data in content.items():
        whole[at : at + len(data)] = data
    return ChunkData(0, index, digest or hash_of(whole), tuple((at, memoryview(data)) for at, data in sorted(content.items())))


def full(index: int, letter: str) -> ChunkData:
    return chunk(index, {0: letter.encode() * CHUNK})


class PartBench:
    """A part and its manifest, as one host keeps them."""

    def __init__(self, path: Path, name: str = "root.raw", size: int = SIZE, *, fresh: bool = False) -> None:
        self.path, self.name = path, name
        self.fd = os.open(path / f"{name}.part", os.O_RDWR | os.O_CREAT, 0o600)
        self.manifest = os.open(path / f"{name}.manifest", os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self.fd, size)
        self.clock = ManualClock()
        header = FileHeader(name=name, size=size, allocated=0)
        self.job = PartJob(header=header, part=self.fd, manifest=self.manifest, fresh=fresh)

    def part(self, *, fresh: bool = False) -> Part:
        """As a process opens it."""
        return Part(replace(self.job, fresh=fresh), self.clock.time)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.manifest)

    @property
    def noted(self) -> dict[int, bytes]:
        """What the manifest tells the next process."""
        return dict(Manifest(self.manifest).hashes)

    @property
    def content(self) -> bytes:
        return (self.path / f"{self.name}.part").read_bytes()

    @property
    def occupied(self) -> int:
        return os.fstat(self.fd).st_blocks * 512

    def actual(self) -> dict[int, bytes]:
        """The hash of each chunk that the disk holds."""
        found: dict[int, bytes] = {}
        digest(self.fd, nothing, found)
        return found
