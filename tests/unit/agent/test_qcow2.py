"""Which qcow2 images may become a disk, and how large its guest sees it."""

import dataclasses
import json
import os
import struct
import subprocess
from pathlib import Path

import pytest
from builders import UID
from instance_bench import Bench

from kubeferry.agent.storage import qcow2
from kubeferry.agent.storage.create import bytes_needed, create_files
from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons
from kubeferry.api.domain import Blank, DiskFormat, DiskSource, Domain

MIB = 1 << 20


def image(path: Path, *options: str, size: str = "3M") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, size], check=True)
    return path


def seen(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return qcow2.virtual_size(fd, str(path))
    finally:
        os.close(fd)


@pytest.mark.parametrize("options", [[], ["-o", "compat=0.10"], ["-o", "cluster_size=512"], ["-o", "extended_l2=on"]], ids=str)
def test_the_size_that_a_guest_sees_is_in_the_header(options: list[str], tmp_path: Path) -> None:
    assert seen(image(tmp_path / "image", *options)) == 3 * MIB


def backed(path: Path) -> Path:
    base = image(path.with_name("base"))
    return image(path, "-b", str(base), "-F", "qcow2")


def elsewhere(path: Path) -> Path:
    return image(path, "-o", f"data_file={path.with_name('data')}")


def encrypted(path: Path) -> Path:
    with image(path).open("r+b") as file:  # its header says LUKS: qemu-img itself measures the processor first, and may fail at that
        file.seek(32)
        file.write(struct.pack(">I", 2))
    return path


def raw(path: Path) -> Path:
    path.write_bytes(bytes(4096))
    return path


def short(path: Path) -> Path:
    path.write_bytes(b"QFI\xfb")
    return path


def cut_off(path: Path) -> Path:
    os.truncate(image(path), 75)
    return path


def newer(path: Path) -> Path:
    with image(path).open("r+b") as file:
        file.seek(4)
        file.write(struct.pack(">I", 4))
    return path


BAD = [
    (backed, "it has a backing file"),
    (elsewhere, "its data lies in another file"),
    (encrypted, "it is encrypted"),
    (raw, "it is no qcow2 image"),
    (short, "it is no qcow2 image"),
    (cut_off, "its header ends early"),
    (newer, "it is of version 4, 2 or 3 was expected"),
]


@pytest.mark.parametrize(("make", "says"), BAD, ids=[make.__name__ for make, _ in BAD])
def test_an_image_that_is_not_whole_in_itself_is_refused_and_nothing_is_made(make: object, says: str, bench: Bench) -> None:
    (bench.sources / "root").unlink()
    make(bench.sources / "root")  # type: ignore[operator]
    for refuses in (
        lambda: bytes_needed(domain(bench), bench.allow, {}),
        lambda: create_files(bench.instances, domain(bench), bench.allow, (), bench.created.append),
    ):
        with pytest.raises(StorageError, match=says) as refused:
            refuses()
        assert refused.value.reason == reasons.SOURCE_UNUSABLE
    assert "root.qcow2" not in os.listdir(bench.instances / UID)


def domain(bench: Bench, capacity: int = 3 * MIB) -> Domain:
    whole = bench.domain()
    root = dataclasses.replace(whole.disks[0], format=DiskFormat.QCOW2, capacity=capacity)
    return dataclasses.replace(whole, disks=(root, whole.disks[1]))


def told(path: Path) -> dict[str, object]:
    shown = subprocess.run(["qemu-img", "info", "-f", "qcow2", "--output", "json", path], check=True, capture_output=True).stdout
    result: dict[str, object] = json.loads(shown)
    return result


@pytest.mark.parametrize("capacity", [3 * MIB, 5 * MIB])
def test_a_disk_is_a_copy_that_its_guest_sees_with_its_capacity(capacity: int, bench: Bench) -> None:
    (bench.sources / "root").unlink()
    source = image(bench.sources / "root")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", source], check=True, capture_output=True)
    disks = create_files(bench.instances, domain(bench, capacity), bench.allow, (), bench.created.append)
    made = bench.directory / "root.qcow2"
    assert disks["root"].inode == made.stat().st_ino
    assert told(made)["virtual-size"] == capacity
    assert told(source)["virtual-size"] == 3 * MIB
    read = ["qemu-io", "-f", "qcow2", "-c", "read -P 7 1M 64k", made]
    assert b"Pattern verification failed" not in subprocess.run(read, check=True, capture_output=True).stdout


def test_a_blank_disk_is_a_qcow2_image_whole_in_itself_of_zeros(bench: Bench) -> None:
    (bench.sources / "root").unlink()
    whole = domain(bench, capacity=40 << 30)
    blank = dataclasses.replace(whole.disks[0], source=DiskSource(blank=Blank()))
    disks = create_files(bench.instances, dataclasses.replace(whole, disks=(blank,)), bench.allow, (), bench.created.append)
    made = bench.directory / "root.qcow2"
    assert disks["root"].inode == made.stat().st_ino
    assert seen(made) == 40 << 30
    assert made.stat().st_blocks * 512 < MIB
    compared = subprocess.run(["qemu-img", "map", "-f", "qcow2", "--output", "json", made], check=True, capture_output=True).stdout
    assert [part["zero"] for part in json.loads(compared)] == [True]


def test_an_image_larger_than_the_disk_is_refused(bench: Bench) -> None:
    (bench.sources / "root").unlink()
    image(bench.sources / "root")
    with pytest.raises(StorageError, match=f"has {3 * MIB} bytes, the disk's capacity is {2 * MIB}"):
        create_files(bench.instances, domain(bench, 2 * MIB), bench.allow, (), bench.created.append)


def test_a_resize_that_fails_is_told_and_leaves_no_part(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.sources / "root").unlink()
    image(bench.sources / "root")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StorageError, match="install qemu-utils"):
        create_files(bench.instances, domain(bench, 5 * MIB), bench.allow, (), bench.created.append)
    assert "root.qcow2.part" not in os.listdir(bench.directory)


def test_what_qemu_img_says_is_passed_on(tmp_path: Path) -> None:
    with raw(tmp_path / "image").open("r+b") as file, pytest.raises(StorageError, match=r"resize an image \(.* ended with 1: .*qcow2"):
        qcow2.resize(file.fileno(), MIB, "an image")


def test_it_is_the_open_file_that_is_resized_whatever_has_its_name_by_now(tmp_path: Path) -> None:
    with image(tmp_path / "image").open("r+b") as file:
        (tmp_path / "image").rename(tmp_path / "old")
        image(tmp_path / "image")
        qcow2.resize(file.fileno(), 5 * MIB, "an image")
    assert (seen(tmp_path / "old"), seen(tmp_path / "image")) == (5 * MIB, 3 * MIB)


def test_a_resize_that_hangs_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = image(tmp_path / "image")
    (tmp_path / "qemu-img").write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    (tmp_path / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(qcow2, "_TIMEOUT", 0.2)
    with whole.open("r+b") as file, pytest.raises(StorageError, match="see that its file system answers") as refused:
        qcow2.resize(file.fileno(), 5 * MIB, "an image")
    assert refused.value.retryable
