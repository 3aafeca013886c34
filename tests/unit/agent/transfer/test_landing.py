"""What becomes of names and journal at the target, whatever a sender announces."""

import asyncio
import dataclasses
import json
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from builders import UID
from sshd import CAPACITY, EPOCH, KERNEL, NAMES, REQUEST, Target, digests, headers, parts

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer import landing, receiver, wire
from kubeferry.agent.transfer.digest import combined
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.landing import Claim, Landing
from kubeferry.agent.transfer.wire import Announcement, AnswerState, FileHeader, FrameType
from kubeferry.api import reasons
from kubeferry.api.domain import DiskFormat
from kubeferry.api.role import Role
from kubeferry.core.journal import Journal

Change = Callable[[tuple[FileHeader, ...]], Sequence[FileHeader]]


def landing_of(target: Target, files: Sequence[FileHeader]) -> Landing:
    return Landing(target.machine, target.journals, Claim("a", REQUEST), files)


def begun(target: Target, source: Path) -> Landing:
    begins = landing_of(target, headers(source))
    assert begins.begin()
    return begins


def fill(filled: Landing, source: Path) -> None:
    """What the receiving process does."""
    for part in filled.parts:
        os.pwrite(part.fd, (source / part.header.name).read_bytes(), 0)


async def test_a_copy_that_is_as_announced_is_verified(target: Target, source: Path) -> None:
    before = target.expect()
    async with target.serving(), target.call("receive") as caller:
        await caller.fill(source, await caller.begin(source))
        answer = await caller.answer()
    assert (answer.state, answer.digest) == (AnswerState.VERIFIED, combined(digests(source)))
    root = target.directory / "root.raw"
    journal = target.journal()
    assert journal == dataclasses.replace(before, role=Role.VERIFIED, created=NAMES, disks=journal.disks)
    assert {name: (disk.inode, disk.digest) for name, disk in journal.disks.items()} == {
        "root": (root.stat().st_ino, digests(source)["root.raw"])
    }
    assert root.read_bytes() == (source / "root.raw").read_bytes()
    assert target.files() == list(NAMES)


def test_each_name_is_journaled_before_its_part_is_made_and_each_part_before_it_is_filled(
    target: Target, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.expect()
    seen: list[tuple[tuple[str, ...], list[str], list[str]]] = []
    write = target.journals.write

    def noted(journal: Journal) -> None:
        seen.append((journal.created, list(journal.parts), target.files()))
        write(journal)

    monkeypatch.setattr(target.journals, "write", noted)
    lands = begun(target, source)
    kernel, both = parts(["kernel"]), parts(NAMES)
    assert seen == [(("kernel",), [], []), (("kernel",), ["kernel"], kernel), (NAMES, ["kernel"], kernel), (NAMES, list(NAMES), both)]
    assert target.journal().parts == {name: (target.directory / f"{name}.part").stat().st_ino for name in NAMES}
    assert [part.fresh for part in lands.parts] == [True, True]
    lands.close()


def test_a_copy_is_verified_only_when_its_names_are_durable(target: Target, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.expect()
    events: list[str] = []
    sync, write = os.fsync, target.journals.write

    def synced(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.startswith(str(target.directory)):
            events.append(f"sync {Path(path).name} of {target.files()}")
        sync(fd)

    def written(journal: Journal) -> None:
        events.append(journal.role)
        write(journal)

    lands = begun(target, source)
    fill(lands, source)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(target.journals, "write", written)
    assert lands.publish(digests(source), digests(source)) == combined(digests(source))
    lands.close()
    assert events == [f"sync {UID} of {sorted([*NAMES, *parts(NAMES)])}", Role.VERIFIED]


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        (lambda d: d | {"root.raw": "0" * 64}, "root.raw: what was read back"),
        (lambda d: {"kernel": d["kernel"]}, "root.raw: what was read back"),
        (lambda d: d | {"more": "0" * 64}, "more: what was read back"),
    ],
    ids=["another", "fewer", "more"],
)
def test_what_was_read_back_as_something_else_gets_no_name(
    ours: Callable[[dict[str, str]], dict[str, str]], says: str, target: Target, source: Path
) -> None:
    target.expect()
    lands = begun(target, source)
    with pytest.raises(TransferError, match=says) as refused:
        lands.publish(ours(digests(source)), digests(source))
    assert refused.value.reason == reasons.DIGEST_MISMATCH
    lands.close()
    assert target.still_incoming()


def test_files_that_are_equal_and_not_those_that_were_announced_get_no_name(target: Target, source: Path) -> None:
    target.expect()
    lands = begun(target, source)
    with pytest.raises(TransferError):
        lands.publish({"kernel": "0" * 64}, {"kernel": "0" * 64})
    lands.close()
    assert target.still_incoming()


def test_a_journal_that_changed_meanwhile_is_not_made_verified(target: Target, source: Path) -> None:
    before = target.expect()
    lands = begun(target, source)
    higher = dataclasses.replace(before, epoch=EPOCH + 1, epoch_id="e8", created=NAMES)
    target.journals.write(higher)
    with pytest.raises(RefusedError) as refused:
        lands.publish(digests(source), digests(source))
    assert refused.value.reason == reasons.NOT_INCOMING
    lands.close()
    assert (target.journal(), target.files()) == (higher, parts(NAMES))


def test_a_part_of_an_earlier_try_is_filled_further(target: Target, source: Path) -> None:
    target.expect()
    first = begun(target, source)
    fill(first, source)
    first.close()
    inodes = target.journal().parts
    again = begun(target, source)
    assert [part.fresh for part in again.parts] == [False, False]
    assert {part.header.name: os.fstat(part.fd).st_ino for part in again.parts} == inodes == target.journal().parts
    assert os.pread(again.parts[0].fd, len(KERNEL), 0) == KERNEL
    again.close()


def another_file(directory: Path) -> None:
    (directory / "kernel.part").rename(directory / "old")
    (directory / "kernel.part").write_bytes((directory / "old").read_bytes())
    (directory / "old").unlink()


def another_size(directory: Path) -> None:
    os.truncate(directory / "kernel.part", 5)


def no_manifest(directory: Path) -> None:
    (directory / "kernel.manifest").unlink()


def no_part(directory: Path) -> None:
    (directory / "kernel.part").unlink()


@pytest.mark.parametrize("disturb", [another_file, another_size, no_manifest, no_part])
def test_what_is_not_the_very_part_of_an_earlier_try_is_made_anew(disturb: Callable[[Path], None], target: Target, source: Path) -> None:
    target.expect()
    first = begun(target, source)
    fill(first, source)
    first.close()
    disturb(target.directory)
    again = begun(target, source)
    assert [part.fresh for part in again.parts] == [True, False]
    assert os.pread(again.parts[0].fd, len(KERNEL), 0) == bytes(len(KERNEL))
    assert os.fstat(again.parts[0].manifest).st_size == 0
    assert target.journal().parts["kernel"] == os.fstat(again.parts[0].fd).st_ino
    again.close()


def test_names_that_an_interrupted_end_gave_are_taken_back(target: Target, source: Path) -> None:
    target.expect()
    first = begun(target, source)
    first.close()
    os.link(target.directory / "kernel.part", target.directory / "kernel")
    again = begun(target, source)
    again.close()
    assert target.still_incoming()
    assert [part.fresh for part in again.parts] == [False, False]


def test_an_end_before_the_journal_knows_costs_no_byte(target: Target, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are given, the journal can't be written: the next try finds every part, and its manifest."""
    target.expect()
    first = begun(target, source)
    fill(first, source)
    os.write(first.parts[0].manifest, b"what is known")

    def full(_: Journal) -> None:
        raise StorageError(reasons.INSUFFICIENT_DISK, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(target.journals, "write", full)
        with pytest.raises(StorageError):
            first.publish(digests(source), digests(source))
    first.close()
    assert target.files() == sorted([*NAMES, *parts(NAMES)])
    again = begun(target, source)
    assert [part.fresh for part in again.parts] == [False, False]
    assert os.pread(again.parts[0].manifest, 99, 0) == b"what is known"
    assert target.still_incoming()
    again.publish(digests(source), digests(source))
    again.close()
    assert target.files() == list(NAMES)


def test_what_an_end_after_that_left_is_removed_by_the_next_try(target: Target, source: Path) -> None:
    target.expect()
    first = begun(target, source)
    fill(first, source)
    first.publish(digests(source), digests(source))
    first.close()
    os.link(target.directory / "root.raw", target.directory / "root.raw.part")
    (target.directory / "root.raw.manifest").touch()
    again = landing_of(target, headers(source))
    assert not again.begin()
    again.close()
    assert target.files() == list(NAMES)


def test_a_part_that_can_not_be_filled_further_makes_room_first(target: Target, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.expect()
    first = begun(target, source)
    fill(first, source)
    first.close()
    no_manifest(target.directory)
    seen: list[list[str]] = []
    monkeypatch.setattr(landing, "make_room", lambda *_: seen.append(target.files()) or (source / "kernel").stat().st_blocks * 512)
    begun(target, source).close()
    assert seen == [parts(["root.raw"])]


def test_room_is_made_by_no_copy_that_is_on_its_way_to_the_trash(target: Target, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.journals.write(dataclasses.replace(target.expect(), uid="goes", role=Role.DELETING))
    seen: list[object] = []
    monkeypatch.setattr(landing, "make_room", lambda _, __, busy: seen.append(busy) or 1 << 40)
    begun(target, source).close()
    assert seen == [{"goes"}]


QCOW2 = "root.qcow2"


def came_as(target: Target, source: Path, path: Path) -> Landing:
    """The copy of a VM with a qcow2 image, which came as that file."""
    before = target.expect()
    assert before.domain is not None
    disk = dataclasses.replace(before.domain.disks[0], format=DiskFormat.QCOW2)
    target.journals.write(dataclasses.replace(before, domain=dataclasses.replace(before.domain, disks=(disk,))))
    kernel, _ = headers(source)
    lands = landing_of(target, [kernel, FileHeader(name=QCOW2, size=path.stat().st_size, allocated=0)])
    assert lands.begin()
    os.pwrite(lands.parts[1].fd, path.read_bytes(), 0)
    return lands


def qcow2(path: Path, *options: str, size: int = CAPACITY) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, str(size)], check=True)
    return path


def published(lands: Landing) -> None:
    same = {"kernel": "0" * 64, QCOW2: "1" * 64}
    try:
        lands.publish(same, same)
    finally:
        lands.close()


def test_a_qcow2_image_that_is_whole_and_as_large_as_its_disk_is_verified(target: Target, source: Path, tmp_path: Path) -> None:
    published(came_as(target, source, qcow2(tmp_path / "image")))
    assert target.journal().role == Role.VERIFIED


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (lambda path: qcow2(path, "-b", "/etc/passwd", "-F", "raw"), "it has a backing file"),
        (lambda path: qcow2(path, "-o", f"data_file={path}.data"), "its data lies in another file"),
        (lambda path: qcow2(path, size=CAPACITY + 512), f"shows its guest {CAPACITY + 512} bytes, the disk's capacity is {CAPACITY}"),
        (lambda path: qcow2(path, size=CAPACITY - 512), f"the disk's capacity is {CAPACITY}"),
        (lambda path: Path("/etc/passwd"), "it is no qcow2 image"),
    ],
    ids=["backed", "elsewhere", "larger", "smaller", "raw"],
)
def test_a_qcow2_image_that_names_other_files_gets_no_name(
    image: Callable[[Path], Path], says: str, target: Target, source: Path, tmp_path: Path
) -> None:
    lands = came_as(target, source, image(tmp_path / "image"))
    with pytest.raises(StorageError, match=says) as refused:
        published(lands)
    assert refused.value.reason == reasons.SOURCE_UNUSABLE
    assert target.still_incoming(("kernel", QCOW2))


def renamed(name: str) -> Change:
    return lambda files: [dataclasses.replace(files[0], name=name), *files[1:]]


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files[:1],
        lambda files: [*files, dataclasses.replace(files[0], name="initrd")],
        lambda files: [*files, files[0]],
        lambda files: [files[1], files[1]],
        renamed("kernel.part"),
        renamed("console.log"),
        renamed("data.raw"),
        lambda files: [files[0], dataclasses.replace(files[1], size=CAPACITY + 1)],
        lambda files: [files[0], dataclasses.replace(files[1], size=CAPACITY - 1)],
        lambda files: [dataclasses.replace(files[0], size=(1 << 30) + 1), files[1]],
    ],
    ids=[
        "one missing",
        "one more",
        "one twice",
        "twice the disk",
        "a part",
        "console log",
        "another disk",
        "too large",
        "too small",
        "a kernel as large as none",
    ],
)
def test_other_files_than_the_domain_runs_with_are_refused(change: Change, target: Target, source: Path) -> None:
    target.expect()
    lands = landing_of(target, change(headers(source)))
    with pytest.raises(TransferError, match="announced") as refused:
        lands.begin()
    lands.close()
    assert refused.value.reason == reasons.TRANSFER_BROKEN
    assert target.still_incoming(())


def test_a_vm_that_its_bios_boots_comes_without_a_kernel(target: Target, source: Path) -> None:
    before = target.expect()
    assert before.domain is not None
    target.journals.write(dataclasses.replace(before, domain=dataclasses.replace(before.domain, kernel_boot=None)))
    kernel, root = headers(source)
    with_kernel = landing_of(target, [kernel, root])
    with pytest.raises(TransferError, match=r"the files kernel, root\.raw were announced, root\.raw were expected"):
        with_kernel.begin()
    with_kernel.close()
    lands = landing_of(target, [root])
    assert lands.begin()
    lands.close()
    assert target.files() == ["root.raw.manifest", "root.raw.part"]


def test_a_qcow2_image_is_as_large_as_it_has_come_to_be(target: Target, source: Path) -> None:
    before = target.expect()
    assert before.domain is not None
    disk = dataclasses.replace(before.domain.disks[0], format=DiskFormat.QCOW2)
    target.journals.write(dataclasses.replace(before, domain=dataclasses.replace(before.domain, disks=(disk,))))
    kernel, root = headers(source)
    lands = landing_of(target, [kernel, dataclasses.replace(root, name="root.qcow2", size=CAPACITY // 7)])
    assert lands.begin()
    lands.close()
    assert (target.directory / "root.qcow2.part").stat().st_size == CAPACITY // 7


@pytest.mark.parametrize("name", ["../kernel", "a/b", ".hidden", "", "/etc/passwd", "a\0b", "a\n"])
async def test_what_is_no_plain_name_of_a_file_is_no_announcement(name: str, target: Target, source: Path) -> None:
    target.expect()
    async with target.serving(), target.call("receive") as caller:
        whole = wire.message(Announcement(request=REQUEST, files=headers(source), certificate="PEM"))[wire.HEAD_LENGTH :]
        caller.send(wire.frame(FrameType.MESSAGE, whole.replace(b'"kernel"', json.dumps(name).encode())))
        assert "is no Announcement: files.0.name" in await caller.refusal()
    assert target.still_incoming(())


def test_files_without_room_are_refused_before_any_is_made(target: Target, source: Path) -> None:
    target.expect()
    lands = landing_of(target, [dataclasses.replace(header, allocated=1 << 61) for header in headers(source)])
    with pytest.raises(StorageError, match=f"the files occupy {1 << 62} bytes more") as refused:
        lands.begin()
    lands.close()
    assert refused.value.reason == reasons.INSUFFICIENT_DISK
    assert target.still_incoming(())


def test_what_an_earlier_try_occupies_needs_no_more_room(target: Target, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.expect()
    first = begun(target, source)
    fill(first, source)
    first.close()
    monkeypatch.setattr(landing, "make_room", lambda *_: 0)
    begun(target, source).close()


async def test_while_an_earlier_try_is_looked_at_the_sender_hears_that_this_host_is_at_work(
    target: Target, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "ALIVE_SECONDS", 0.01)
    target.expect()
    go_on = threading.Event()
    begin = Landing.begin

    def slow(self: Landing) -> bool:
        go_on.wait(30)
        return begin(self)

    monkeypatch.setattr(Landing, "begin", slow)
    async with target.serving(), target.call("receive") as caller:
        caller.announce(headers(source))
        for _ in range(3):
            assert (await wire.next_frame(caller.reader)).type == FrameType.ALIVE
        go_on.set()
        answer = await caller.answer()
        assert answer.data is not None
        await caller.fill(source, answer.data)
        assert (await wire.next_frame(caller.reader)).type == FrameType.MESSAGE, "after that nothing comes between"


class Line:
    """A writer that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


async def test_a_file_system_that_hangs_is_not_called_alive_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "ALIVE_SECONDS", 0)
    line = Line()
    life = receiver.SignsOfLife(line)  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        await life._telling
    assert line.written == [wire.frame(FrameType.ALIVE)] * receiver.ALIVE_TIMES
