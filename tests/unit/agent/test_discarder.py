"""Giving up a copy: proved stopped first; only the VM's own files go, to the trash, and whatever cuts it off, nothing is lost."""

import dataclasses
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_rig import Rig
from builders import UID
from hypervisor_contract import machine
from image_holder import held_by_qemu
from structlog.testing import capture_logs

from kubeferry.agent.discarder import Discarder
from kubeferry.agent.errors import RefusedError
from kubeferry.agent.journal import JournalStore, has_instances
from kubeferry.agent.stopped import StopProof
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.trash import move_to_trash
from kubeferry.api import reasons
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.core import transitions
from kubeferry.core.journal import Journal, JournalDisk, JournalStep, Reserved

OWN = {"kernel": b"kernel", "root.raw": b"root" * 1000, "data.raw.part": b"half", "console.log": b"now", "console.log.0": b"then"}
CREATED = ("kernel", "initrd", "root.raw", "data.raw")
EPOCH = 7


class PowerCut(BaseException):
    """Ends what runs, as nothing that it could handle does."""


class Copy:
    """A VM's copy with files of all kinds, in role RELEASED, and what is to become of it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.instances = rig.path / "instances"
        self.directory = self.instances / UID
        self.trash = self.instances / ".trash" / f"{UID}-{EPOCH}"
        self.directory.mkdir()
        for name, content in OWN.items():
            (self.directory / name).write_bytes(content)
        inode = (self.directory / "root.raw").stat().st_ino
        self.journal = Journal(
            uid=UID,
            epoch=EPOCH,
            epoch_id="e7",
            role=Role.DELETING,
            step=JournalStep(seq=9, verb=Verb.DISCARD),
            source="b",
            domain=rig.domain(),
            reserved=Reserved(cpu=1, memory=1, disk=1),
            disks={"root": JournalDisk(inode=inode)},
            created=CREATED,
        )
        self.before = dataclasses.replace(self.journal, role=Role.RELEASED, epoch=EPOCH - 1, epoch_id="e6")
        rig.journals.write(self.before)

    async def discard(self) -> Journal:
        return await Discarder(self.rig.machine, self.rig.journals, StopProof(self.rig.machine, self.rig.calls)).discard(self.journal)

    def move(self) -> tuple[str, ...]:
        inodes = {f"{name}.raw": disk.inode for name, disk in self.journal.disks.items()}
        return move_to_trash(self.instances, UID, EPOCH, CREATED, inodes)

    async def refusal(self) -> StorageError:
        with pytest.raises(StorageError) as refused:
            await self.discard()
        return refused.value

    def untouched(self) -> bool:
        """Whether every file is where it was, and none is in the trash."""
        return content(self.directory).items() >= OWN.items() and content(self.trash) == {}


@pytest.fixture
def copy(rig: Rig) -> Copy:
    return Copy(rig)


def content(directory: Path) -> dict[str, bytes]:
    """What lies in a directory, by name; nothing, if it is missing."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()} if directory.exists() else {}


async def test_a_discarded_copy_lies_in_the_trash_and_only_its_epoch_is_left(copy: Copy) -> None:
    inode = (copy.directory / "root.raw").stat().st_ino
    gone = await copy.discard()
    assert content(copy.trash) == OWN
    assert (copy.trash / "root.raw").stat().st_ino == inode
    assert {path.stat().st_nlink for path in copy.trash.iterdir()} == {1}
    assert not copy.directory.exists()
    assert gone == transitions.bury(copy.journal) == copy.rig.journal()
    assert (gone.role, gone.epoch, gone.created, gone.domain) == (Role.GONE, EPOCH, (), None)


async def test_the_trash_is_roots_alone_and_is_no_instance(copy: Copy) -> None:
    old = os.umask(0)
    try:
        await copy.discard()
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (copy.trash, copy.trash.parent)} == {0o700}
    assert not has_instances(copy.instances)


async def test_discarded_again_it_is_gone_still(copy: Copy) -> None:
    await copy.discard()
    assert (await copy.discard()).role == Role.GONE
    assert content(copy.trash) == OWN


async def test_a_copy_of_which_no_byte_was_made_leaves_no_trash(copy: Copy) -> None:
    copy.journal = dataclasses.replace(copy.journal, disks={})
    for path in copy.directory.iterdir():
        path.unlink()
    assert (await copy.discard()).role == Role.GONE
    assert not copy.directory.exists()
    assert not copy.trash.parent.exists()


@pytest.mark.parametrize("trash", [False, True], ids=["", "an-older-trash"])
@pytest.mark.parametrize("missing", ["the-disk", "the-directory", "everything"])
async def test_a_disk_that_is_not_where_it_should_be_is_not_given_up(copy: Copy, missing: str, trash: bool) -> None:
    if trash:  # the VM was here before
        older = copy.trash.with_name(f"{UID}-2")
        older.mkdir(parents=True)
        (older / "root.raw").write_bytes(b"of epoch 2")
    elsewhere = copy.rig.path / "elsewhere"  # its file system is not mounted, say
    elsewhere.mkdir()
    for path in copy.directory.iterdir() if missing != "the-disk" else [copy.directory / "root.raw"]:
        path.rename(elsewhere / path.name)
    if missing == "the-directory":
        copy.directory.rmdir()
    refused = await copy.refusal()
    assert (refused.reason, refused.retryable) == (reasons.STORAGE_ERROR, True)
    assert "root.raw" in str(refused)
    assert copy.rig.journal() == copy.before
    assert content(copy.trash) == {}


async def test_a_discard_that_is_asked_again_at_a_higher_epoch_finds_what_the_first_has_moved(copy: Copy) -> None:
    copy.move()
    copy.journal = dataclasses.replace(copy.journal, epoch=EPOCH + 1, epoch_id="e8")
    assert (await copy.discard()).role == Role.GONE
    assert content(copy.trash) == OWN


async def test_what_a_guest_wrote_to_another_epochs_trash_stays_there(copy: Copy) -> None:
    older = copy.trash.with_name(f"{UID}-2")
    older.mkdir(parents=True)
    (older / "root.raw").write_bytes(b"of epoch 2")
    await copy.discard()
    assert content(older) == {"root.raw": b"of epoch 2"}
    assert content(copy.trash) == OWN


@pytest.mark.parametrize("name", ["notes", "console.log.old", "console.log.0.gz", "root.raw.bak"])
async def test_what_is_not_the_vms_stays_and_is_named(copy: Copy, name: str) -> None:
    (copy.directory / name).write_bytes(b"somebody's")
    with capture_logs() as logs:
        gone = await copy.discard()
    assert content(copy.directory) == {name: b"somebody's"}
    assert content(copy.trash) == OWN
    assert gone.role == Role.GONE
    assert [(entry["left"], entry["directory"]) for entry in logs if entry["log_level"] == "warning"] == [((name,), str(copy.directory))]


async def test_a_console_log_that_is_no_file_is_not_the_vms(copy: Copy) -> None:
    (copy.directory / "console.log").unlink()
    (copy.directory / "console.log").symlink_to("/etc/passwd")
    await copy.discard()
    assert (copy.directory / "console.log").is_symlink()
    assert not (copy.trash / "console.log").exists()


async def test_a_vm_that_runs_is_left_as_it_is_with_its_journal(copy: Copy) -> None:
    copy.rig.hypervisor.create(machine(UID, "web"), lambda: True)
    with pytest.raises(RefusedError) as refused:
        await copy.discard()
    assert refused.value.reason == reasons.NOT_STOPPED
    assert copy.untouched()
    assert copy.rig.journal() == copy.before


async def test_a_disk_that_a_qemu_holds_is_left_as_it_is_with_its_journal(copy: Copy) -> None:
    with held_by_qemu(copy.directory / "root.raw"), pytest.raises(RefusedError):
        await copy.discard()
    assert copy.untouched()
    assert copy.rig.journal() == copy.before


async def test_a_disk_with_another_inode_is_not_the_vms_and_nothing_is_moved(copy: Copy) -> None:
    (copy.directory / "root.raw").rename(copy.instances / "kept")
    (copy.directory / "root.raw").write_bytes(OWN["root.raw"])
    refused = await copy.refusal()
    assert refused.reason == reasons.FOREIGN_FILES
    assert "root.raw" in str(refused)
    assert copy.untouched()
    assert copy.rig.journal().role == Role.DELETING


@pytest.mark.parametrize("kind", ["link", "directory"])
async def test_a_name_of_the_vms_that_is_no_file_is_not_the_vms_and_nothing_is_moved(copy: Copy, kind: str) -> None:
    path = copy.directory / "initrd"
    if kind == "link":
        path.symlink_to("kernel")
    else:
        path.mkdir()
    refused = await copy.refusal()
    assert refused.reason == reasons.FOREIGN_FILES
    assert "initrd" in str(refused)
    assert copy.untouched()


def test_a_link_in_place_of_the_instance_directory_is_not_followed(copy: Copy) -> None:
    copy.directory.rename(copy.instances / "elsewhere")
    copy.directory.symlink_to(copy.instances / "elsewhere")
    with pytest.raises(StorageError) as refused:
        copy.move()
    assert refused.value.reason == reasons.FOREIGN_FILES
    assert content(copy.instances / "elsewhere") == OWN


def test_a_link_in_place_of_the_trash_is_not_followed(copy: Copy) -> None:
    (copy.instances / "elsewhere").mkdir()
    copy.trash.parent.symlink_to(copy.instances / "elsewhere")
    with pytest.raises(StorageError):
        copy.move()
    assert content(copy.directory) == OWN


async def test_a_file_in_the_trash_is_never_replaced(copy: Copy) -> None:
    copy.trash.mkdir(parents=True)
    (copy.trash / "root.raw").write_bytes(b"another's")
    refused = await copy.refusal()
    assert refused.reason == reasons.FOREIGN_FILES
    assert ".trash" in str(refused)
    assert content(copy.trash)["root.raw"] == b"another's"
    assert content(copy.directory) == OWN


def test_a_file_that_takes_the_place_of_one_that_was_looked_at_is_not_removed(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def swapped(fd: int) -> None:
        fsync(fd)
        if (copy.trash / "root.raw").exists():
            (copy.directory / "new").write_bytes(b"somebody's")
            (copy.directory / "new").replace(copy.directory / "root.raw")

    monkeypatch.setattr(os, "fsync", swapped)
    with pytest.raises(StorageError) as refused:
        copy.move()
    assert refused.value.reason == reasons.FOREIGN_FILES
    assert content(copy.directory)["root.raw"] == b"somebody's"
    assert content(copy.trash)["root.raw"] == OWN["root.raw"]


def failing(name: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the power be cut at the `times`th call of a system call."""
    real: Callable[..., Any] = getattr(os, name)
    left = [times]

    def call(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise PowerCut
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("call", ["mkdir", "link", "fsync", "unlink", "rmdir"])
@pytest.mark.parametrize("times", range(1, 8))
def test_whatever_a_power_cut_leaves_no_file_is_lost_and_it_is_gone_on_from(
    call: str, times: int, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(call, times, patch)
        try:
            copy.move()
        except PowerCut:
            assert content(copy.directory) | content(copy.trash) == OWN
    assert copy.move() == ()
    assert content(copy.trash) == OWN
    assert not copy.directory.exists()


def test_every_name_in_the_trash_is_durable_before_the_old_one_goes(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    durable: set[str] = set()
    fsync, unlink = os.fsync, os.unlink

    def synced(fd: int) -> None:
        fsync(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        durable.update(f"{path}/{name}" for name in os.listdir(fd))

    def removed(name: str, *, dir_fd: int) -> None:
        needed = {str(copy.trash / name), str(copy.trash), str(copy.trash.parent)}
        assert needed <= durable
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "unlink", removed)
    copy.move()
    assert content(copy.trash) == OWN


def test_that_the_old_names_are_gone_is_durable_in_the_end(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, list[str]]] = []
    fsync = os.fsync

    def synced(fd: int) -> None:
        fsync(fd)
        seen.append((os.readlink(f"/proc/self/fd/{fd}"), sorted(os.listdir(fd))))

    monkeypatch.setattr(os, "fsync", synced)
    copy.move()
    assert seen[-2:] == [(str(copy.directory), []), (str(copy.instances), [".trash"])]


@pytest.mark.parametrize("writes", [1, 2])
async def test_a_discard_that_was_cut_off_at_its_journal_is_gone_on_from(copy: Copy, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first file is moved (1), and when all are (2)."""
    write = JournalStore.write
    left = [writes]

    def die(store: JournalStore, journal: Journal) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise PowerCut
        write(store, journal)

    with monkeypatch.context() as patch:
        patch.setattr(JournalStore, "write", die)
        with pytest.raises(PowerCut):
            await copy.discard()
    assert copy.rig.journal() == (copy.before if writes == 1 else copy.journal)
    assert content(copy.directory) == (OWN if writes == 1 else {})
    assert (await copy.discard()).role == Role.GONE
    assert content(copy.trash) == OWN


async def test_a_file_under_both_its_names_is_moved_under_both(copy: Copy) -> None:
    os.link(copy.directory / "root.raw", copy.directory / "root.raw.part")
    await copy.discard()
    assert content(copy.trash) == OWN | {"root.raw.part": OWN["root.raw"]}


async def test_a_journal_without_a_domain_is_a_defect_and_nothing_is_moved(copy: Copy) -> None:
    copy.journal = dataclasses.replace(copy.journal, domain=None)
    with pytest.raises(ValueError, match="has no domain"):
        await copy.discard()
    assert copy.untouched()
