"""When a part is durable, what is noted of it then, and what its disk holds at last."""

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from part_bench import BLOCK, SIZE, PartBench, chunk, full, nothing

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer import filling
from kubeferry.agent.transfer.digest import CHUNK, digest, hash_of
from kubeferry.agent.transfer.filling import SYNC_SECONDS, Part
from kubeferry.agent.transfer.manifest import Manifest
from kubeferry.agent.transfer.processes import PartJob
from kubeferry.agent.transfer.wire import FileHeader


@pytest.mark.parametrize("failing", ["fdatasync", "the manifest"])
def test_what_could_not_be_made_durable_is_never_noted(failing: str, file: PartBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel tells once that it lost what was written; whoever asks again is told that all is well."""
    part = file.part(fresh=True)
    part.write(full(0, "a"))

    def fail(*_args: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, *(("fdatasync", fail) if failing == "fdatasync" else ("pwrite", fail)))
        with pytest.raises(StorageError, match=r"could not make durable root\.raw"):
            part.note()
    part.note()
    assert part.known == file.noted == {}


def test_after_so_many_bytes_what_was_written_is_noted(file: PartBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "SYNC_BYTES", 2 * CHUNK)
    part = file.part(fresh=True)
    counts = []
    for index in range(3):
        part.write(full(index, "x"))
        counts.append(len(file.noted))
    part.write(chunk(3, {0: b"x" * BLOCK}, BLOCK))
    assert [*counts, len(file.noted)] == [0, 2, 2, 2]


def test_only_data_counts(file: PartBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "SYNC_BYTES", CHUNK)
    part = file.part(fresh=True)
    for index in range(3):
        part.write(chunk(index, {0: b"x"}))
    assert file.noted == {}


def test_after_so_many_seconds_what_was_written_is_noted(file: PartBench) -> None:
    part = file.part(fresh=True)
    counts = []
    for index, seconds in enumerate([SYNC_SECONDS / 2, SYNC_SECONDS / 2, SYNC_SECONDS / 2]):
        file.clock.advance(seconds)
        part.write(full(index, "x"))
        counts.append(len(file.noted))
    assert counts == [0, 2, 2]


def test_what_is_noted_was_made_durable_before(file: PartBench, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fdatasync, note = os.fdatasync, Manifest.note

    def synced(fd: int) -> None:
        assert fd == file.fd
        order.append("durable")
        fdatasync(fd)

    def noted(manifest: Manifest, hashes: Mapping[int, bytes]) -> None:
        order.append(f"noted {sorted(hashes)}")
        note(manifest, hashes)

    monkeypatch.setattr(os, "fdatasync", synced)
    monkeypatch.setattr(Manifest, "note", noted)
    part = file.part(fresh=True)
    part.write(full(0, "a"))
    part.write(full(2, "c"))
    part.note()
    part.write(full(1, "b"))
    part.note()
    assert order == ["durable", "noted [0, 2]", "durable", "noted [1]"]


def by_digest(content: bytes, path: Path) -> str:
    path.write_bytes(content)
    with path.open("rb") as file:
        return digest(file.fileno(), nothing)


def test_what_is_read_back_is_the_digest_of_the_file(left: PartBench, tmp_path: Path) -> None:
    assert left.part().read_back(nothing) == by_digest(left.content, tmp_path / "same")


def test_what_is_read_back_is_what_the_disk_holds_and_not_what_was_written(file: PartBench, tmp_path: Path) -> None:
    part = file.part(fresh=True)
    for index, letter in enumerate("abc"):
        part.write(full(index, letter))
    os.pwrite(file.fd, b"?", CHUNK)
    assert part.read_back(nothing) == by_digest(b"a" * CHUNK + b"?" + b"b" * (CHUNK - 1) + b"c" * CHUNK + bytes(BLOCK), tmp_path / "same")


def lose(file: PartBench) -> None:
    os.ftruncate(file.fd, CHUNK)
    os.ftruncate(file.fd, SIZE)


def spoil(file: PartBench) -> None:
    os.pwrite(file.fd, b"?", 0)


def grow(file: PartBench) -> None:
    os.pwrite(file.fd, b"?", 3 * CHUNK)


def leave(_file: PartBench) -> None: ...


@pytest.mark.parametrize("change", [lose, spoil, grow, leave])
def test_the_manifest_tells_of_exactly_what_was_read_back(change: Callable[[PartBench], None], file: PartBench) -> None:
    part = file.part(fresh=True)
    for index, letter in enumerate("abc"):
        part.write(full(index, letter))
    part.note()
    change(file)
    part.read_back(nothing)
    assert part.known == file.noted == file.actual()


def test_what_is_read_back_is_asked_of_the_disk(file: PartBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Durable, and out of the page cache, before the first byte of it is read."""
    order: list[str] = []
    part = file.part(fresh=True)
    part.write(full(0, "a"))
    fsync, advise, pread = os.fsync, os.posix_fadvise, os.pread

    def synced(fd: int) -> None:
        order.append(f"fsync {fd == file.fd}")
        fsync(fd)

    def advised(fd: int, *args: int) -> None:
        assert args == (0, 0, os.POSIX_FADV_DONTNEED)
        order.append(f"advise {fd == file.fd}")
        advise(fd, *args)

    def read(fd: int, count: int, offset: int) -> bytes:
        order.append("read")
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "posix_fadvise", advised)
    monkeypatch.setattr(os, "pread", read)
    part.read_back(nothing)
    assert order == ["fsync True", "advise True", "read"]


def test_a_part_that_was_replaced_meanwhile_is_read_back_as_it_was_written(file: PartBench) -> None:
    part = file.part(fresh=True)
    part.write(full(0, "a"))
    (file.path / "root.raw.part").rename(file.path / "elsewhere")
    (file.path / "root.raw.part").write_bytes(b"?" * SIZE)
    part.read_back(nothing)
    assert file.noted == {0: hash_of(b"a" * CHUNK)}


def test_a_disk_that_does_not_read_is_told(file: PartBench, monkeypatch: pytest.MonkeyPatch) -> None:
    part = file.part(fresh=True)
    part.write(full(0, "a"))

    def refuse(*_args: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError, match=r"could not read back root\.raw: Input/output error"):
        part.read_back(nothing)
    assert len(os.listdir("/proc/self/fd")) == before


def test_signs_of_life_are_told_while_it_is_read_back(file: PartBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "ALIVE_EVERY", 2)
    part = file.part(fresh=True)
    for index, letter in enumerate("abc"):
        part.write(full(index, letter))
    signs: list[int] = []
    part.read_back(lambda: signs.append(1))
    assert len(signs) == 1


def test_what_is_known_survives_the_process(left: PartBench) -> None:
    assert left.part().known == {0: hash_of(b"a" * CHUNK)}


def test_a_manifest_that_can_not_be_read_is_told(file: PartBench) -> None:
    with open(file.path / "root.raw.manifest", "wb") as unreadable:  # write only
        header = FileHeader(name="root.raw", size=SIZE, allocated=0)
        with pytest.raises((StorageError, OSError)) as refused:
            Part(PartJob(header=header, part=file.fd, manifest=unreadable.fileno(), fresh=True))
        assert refused.type is StorageError
