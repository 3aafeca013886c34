from collections.abc import Iterator
from pathlib import Path

import pytest
from image_holder import held_by_qemu

from kubeferry.agent.storage import lock
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.lock import image_is_free
from kubeferry.api import reasons


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "root.raw"
    path.write_bytes(b"guest" * 1000)
    return path


@pytest.fixture
def held(image: Path) -> Iterator[None]:
    with held_by_qemu(image):
        yield


def test_an_image_that_nobody_has_is_free_and_stays_as_it_is(image: Path) -> None:
    before = image.stat().st_mtime_ns, image.read_bytes()
    assert image_is_free(image)
    assert (image.stat().st_mtime_ns, image.read_bytes()) == before


@pytest.mark.usefixtures("held")
def test_an_image_that_a_qemu_has_is_not_free(image: Path) -> None:
    assert not image_is_free(image)


def test_a_seed_that_a_qemu_has_only_to_read_is_not_free(image: Path) -> None:
    with held_by_qemu(image, readonly=True):
        assert not image_is_free(image)
    assert image_is_free(image)


def test_a_missing_image_is_never_free(image: Path) -> None:
    with pytest.raises(StorageError, match="No such file") as refused:
        image_is_free(image.with_name("missing"))
    assert refused.value.reason == reasons.STORAGE_ERROR


def fake_qemu_io(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "qemu-io").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "qemu-io").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def test_a_qemu_io_that_does_not_end_is_ended_and_tells_nothing(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_TIMEOUT", 0.05)
    fake_qemu_io(tmp_path, "exec sleep 60", monkeypatch)
    with pytest.raises(StorageError, match=r"within 0\.05 s") as refused:
        image_is_free(image)
    assert refused.value.retryable


def test_an_unknown_failure_is_told_with_its_status_and_words(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_qemu_io(tmp_path, "echo 'lock is broken' >&2; exit 3", monkeypatch)
    with pytest.raises(StorageError, match=r"ended with 3 on .*: lock is broken"):
        image_is_free(image)


def test_without_qemu_io_nothing_is_free(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match="install qemu-utils"):
        image_is_free(image)
