import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3

from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer.digest import CHUNK, ImageDigest, chunks, combined, count_of, digest, extents, is_zero, length_of
from kubeferry.api import reasons


def by_the_book(content: bytes) -> str:
    """The definition, word for word."""
    hashes = [blake3(content[start : start + CHUNK]).digest() for start in range(0, len(content), CHUNK)]
    return blake3(len(content).to_bytes(8, "little") + b"".join(hashes)).hexdigest()


def made(path: Path, size: int, data: Mapping[int, bytes]) -> Path:
    """A file with holes: what is not data."""
    with path.open("wb") as file:
        for place, content in data.items():
            file.seek(place)
            file.write(content)
        file.truncate(size)
    return path


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def nothing() -> None: ...


def digest_of(path: Path, on_chunk: Callable[[], None] = nothing) -> str:
    with opened(path) as fd:
        return digest(fd, on_chunk)


IMAGES: dict[str, tuple[int, dict[int, bytes]]] = {
    "empty": (0, {}),
    "one byte": (1, {0: b"x"}),
    "one chunk": (CHUNK, {0: b"x" * CHUNK}),
    "a byte more": (CHUNK + 1, {0: b"x" * (CHUNK + 1)}),
    "a hole": (3 * CHUNK, {}),
    "a hole with an odd end": (2 * CHUNK + 5, {}),
    "data at the start": (3 * CHUNK, {0: b"x" * 4096}),
    "data in the middle": (5 * CHUNK, {2 * CHUNK + 8192: b"x" * 4096}),
    "data at the odd end": (4 * CHUNK + 5, {4 * CHUNK: b"12345"}),
    "an odd hole behind data": (2 * CHUNK + 5, {0: b"x" * 4096}),
    "over an edge": (3 * CHUNK, {CHUNK - 4096: b"x" * 8192}),
    "two stretches in a chunk": (2 * CHUNK, {0: b"x" * 4096, 1 << 20: b"y" * 4096}),
}


@pytest.mark.parametrize("image", IMAGES)
def test_the_digest_is_what_the_design_says(image: str, tmp_path: Path) -> None:
    path = made(tmp_path / "image", *IMAGES[image])
    assert digest_of(path) == by_the_book(path.read_bytes())


@pytest.mark.parametrize("image", IMAGES)
def test_holes_and_zeros_are_the_same(image: str, tmp_path: Path) -> None:
    sparse = made(tmp_path / "sparse", *IMAGES[image])
    (tmp_path / "full").write_bytes(sparse.read_bytes())
    assert digest_of(sparse) == digest_of(tmp_path / "full")


def test_all_images_of_these_tests_differ(tmp_path: Path) -> None:
    digests = {digest_of(made(tmp_path / name, *image)) for name, image in IMAGES.items()}
    assert len(digests) == len(IMAGES)


def test_a_hole_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "image", 1 << 40, {1 << 39: b"x" * 4096})
    read: list[tuple[int, int]] = []
    pread = os.pread

    def noted(fd: int, count: int, offset: int) -> bytes:
        read.append((count, offset))
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", noted)
    seen = []
    digest_of(path, lambda: seen.append(1))
    assert read == [(CHUNK, 1 << 39)]
    assert len(seen) == 1


def test_chunks_tell_where_their_data_is(tmp_path: Path) -> None:
    path = made(tmp_path / "image", 3 * CHUNK, {CHUNK - 4096: b"x" * 8192, 2 * CHUNK: b"y" * 4096, 2 * CHUNK + (1 << 20): b"z" * 4096})
    with opened(path) as fd:
        found = [(chunk.index, chunk.start, chunk.extents) for chunk in chunks(fd, 3 * CHUNK)]
    later = 2 * CHUNK + (1 << 20)
    assert found == [
        (0, 0, ((CHUNK - 4096, CHUNK),)),
        (1, CHUNK, ((CHUNK, CHUNK + 4096),)),
        (2, 2 * CHUNK, ((2 * CHUNK, 2 * CHUNK + 4096), (later, later + 4096))),
    ]


def test_extents_end_where_the_size_ends(tmp_path: Path) -> None:
    path = made(tmp_path / "image", 16384, {0: b"x" * 16384})
    with opened(path) as fd:
        assert list(extents(fd, 5000)) == [(0, 5000)]
        assert list(extents(fd, 0)) == []


def test_a_file_that_shrinks_meanwhile_is_told(tmp_path: Path) -> None:
    path = made(tmp_path / "image", 2 * CHUNK, {0: b"x" * (2 * CHUNK)})
    with pytest.raises(StorageError, match=f"ended at byte {CHUNK + 100}, {2 * CHUNK} were expected") as refused:
        digest_of(path, lambda: os.truncate(path, CHUNK + 100))
    assert refused.value.reason == reasons.SOURCE_UNUSABLE


def test_what_a_chunk_is_stopped_with_is_passed_on(tmp_path: Path) -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        digest_of(made(tmp_path / "image", 1, {0: b"x"}), stop)


def test_the_hashes_of_what_holds_data_are_told(tmp_path: Path) -> None:
    path = made(tmp_path / "image", 3 * CHUNK + 5, {CHUNK: b"x" * 4096, 3 * CHUNK: b"12345"})
    known: dict[int, bytes] = {}
    with opened(path) as fd:
        digest(fd, nothing, known)
    assert known == {1: blake3(b"x" * 4096 + bytes(CHUNK - 4096)).digest(), 3: blake3(b"12345").digest()}


@pytest.mark.parametrize(
    ("index", "size", "length"), [(0, 0, 0), (0, 1, 1), (0, CHUNK, CHUNK), (1, CHUNK, 0), (1, CHUNK + 7, 7), (5, CHUNK, 0)]
)
def test_the_last_chunk_of_an_image_may_be_shorter(index: int, size: int, length: int) -> None:
    assert length_of(index, size) == length
    assert count_of(size) == sum(length_of(each, size) > 0 for each in range(6))


@pytest.mark.parametrize("length", [1, 4096, CHUNK])
def test_zeros_are_known_by_their_hash(length: int) -> None:
    assert is_zero(blake3(bytes(length)).digest(), length)
    assert not is_zero(blake3(bytes(length - 1) + b"x").digest(), length)


def test_the_size_counts_where_all_is_hole() -> None:
    assert ImageDigest(CHUNK).hexdigest() != ImageDigest(CHUNK - 1).hexdigest() != ImageDigest(2 * CHUNK).hexdigest()


def test_one_digest_of_several_files_depends_on_names_and_digests_and_not_on_their_order() -> None:
    a, b = "a" * 64, "b" * 64
    assert combined({"x": a, "y": b}) == combined({"y": b, "x": a}) == blake3(f"x\0{a}\0y\0{b}\0".encode()).hexdigest()
    assert len({combined({"x": a, "y": b}), combined({"x": b, "y": a}), combined({"x": a}), combined({})}) == 4
