import dataclasses
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import UID
from instance_bench import ALL, CAPACITY, CONTENT, Bench
from seed_files import seed_files

from kubeferry.agent.settings import AllowList
from kubeferry.agent.storage.create import MARGIN, bytes_needed, create_files, own_files
from kubeferry.agent.storage.errors import StorageError
from kubeferry.api import reasons
from kubeferry.api.domain import Blank, CloudInitSeed, DiskFormat, DiskSource, Domain, DomainDisk, HostPath, KernelBoot
from kubeferry.core.journal import JournalDisk


class PowerCut(BaseException):
    """Ends what runs, as nothing that it could handle does."""


def failing(name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """Let the `times`th call of a system call end with that error."""
    real: Callable[..., Any] = getattr(os, name)
    left = [times]

    def call(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, call)


def test_kernel_initrd_and_every_disk_are_made(bench: Bench) -> None:
    disks = bench.create()
    assert bench.whole()
    assert disks == {name: JournalDisk(inode=(bench.directory / f"{name}.raw").stat().st_ino) for name in ("root", "data")}


def test_a_disk_has_its_capacity_a_kernel_its_own_size(bench: Bench) -> None:
    bench.create()
    sizes = {name: (bench.directory / name).stat().st_size for name in ALL}
    assert sizes == {"kernel": 6, "initrd": 6, "root.raw": CAPACITY, "data.raw": CAPACITY}


def test_without_an_initrd_none_is_made(bench: Bench) -> None:
    plain = dataclasses.replace(bench.domain(), kernel_boot=KernelBoot(kernel_path=f"{bench.sources}/kernel"))
    create_files(bench.instances, plain, bench.allow, (), bench.created.append)
    assert bench.created == ["kernel", "root.raw", "data.raw"]


def test_a_vm_that_its_bios_boots_needs_no_kernel(bench: Bench) -> None:
    create_files(bench.instances, dataclasses.replace(bench.domain(), kernel_boot=None), bench.allow, (), bench.created.append)
    assert bench.created == ["root.raw", "data.raw"]


def test_a_blank_disk_has_its_capacity_and_occupies_nothing(bench: Bench) -> None:
    blank = dataclasses.replace(bench.disk("blank"), capacity=40 << 30, source=DiskSource(blank=Blank()))
    whole = dataclasses.replace(bench.domain(), kernel_boot=None, disks=(blank,))
    assert bytes_needed(whole, AllowList(), {}) == MARGIN
    disks = create_files(bench.instances, whole, AllowList(), (), bench.created.append)
    made = (bench.directory / "blank.raw").stat()
    assert disks == {"blank": JournalDisk(inode=made.st_ino)}
    assert (made.st_size, made.st_blocks) == (40 << 30, 0)


def seeded(bench: Bench, **changes: Any) -> Domain:
    words = CloudInitSeed(local_hostname="web-0", user_data="#cloud-config\n")
    seed = DomainDisk(name="seed", format=DiskFormat.RAW, capacity=CAPACITY, source=DiskSource(cloud_init_no_cloud=words))
    return dataclasses.replace(bench.domain(), disks=(bench.disk("root"), dataclasses.replace(seed, **changes)))


def test_a_seed_is_made_of_the_vms_words_and_uid(bench: Bench) -> None:
    disks = create_files(bench.instances, seeded(bench), bench.allow, (), bench.created.append)
    made = bench.directory / "seed.raw"
    assert disks["seed"].inode == made.stat().st_ino
    assert made.stat().st_size == CAPACITY
    assert seed_files(made.read_bytes())["meta-data"] == f"instance-id: {UID}\nlocal-hostname: web-0\n"


def test_a_seed_that_its_disk_can_not_hold_is_refused_and_leaves_no_part(bench: Bench) -> None:
    with pytest.raises(StorageError, match="its capacity is 4096") as refused:
        create_files(bench.instances, seeded(bench, capacity=4096), bench.allow, (), bench.created.append)
    assert refused.value.reason == reasons.INVALID_TASK
    assert set(bench.files()) == {"kernel", "initrd", "root.raw"}


@pytest.mark.parametrize("umask", [0, 0o077])
def test_modes_do_not_depend_on_the_umask(umask: int, bench: Bench) -> None:
    old = os.umask(umask)
    try:
        bench.create()
    finally:
        os.umask(old)
    assert stat.S_IMODE(bench.directory.stat().st_mode) == 0o711
    assert {stat.S_IMODE((bench.directory / name).stat().st_mode) for name in ALL} == {0o600}


def test_each_name_is_noted_before_anything_of_it_is_made(bench: Bench) -> None:
    seen: list[tuple[str, set[str]]] = []
    create_files(bench.instances, bench.domain(), bench.allow, (), lambda name: seen.append((name, set(bench.files()))))
    assert seen == [(name, set(ALL[:number])) for number, name in enumerate(ALL)]


def test_a_journal_that_can_not_be_written_stops_it(bench: Bench) -> None:
    def refuse(name: str) -> None:
        raise StorageError(reasons.JOURNAL_UNREADABLE, f"no {name}")

    with pytest.raises(StorageError, match="no kernel"):
        create_files(bench.instances, bench.domain(), bench.allow, (), refuse)
    assert bench.files() == {}


def test_done_again_it_keeps_what_is_whole_and_needs_no_source(bench: Bench) -> None:
    made = bench.create()
    for name in CONTENT:
        (bench.sources / name).unlink()
    assert bench.create() == made
    assert bench.created == list(ALL)
    assert bench.whole()


@pytest.mark.parametrize("call", ["link", "unlink", "fsync", "ftruncate", "copy_file_range", "mkdir", "fchmod"])
@pytest.mark.parametrize("times", range(1, 10))
def test_whatever_a_power_cut_leaves_is_gone_on_from(call: str, times: int, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        failing(call, PowerCut(), patch, times)
        try:
            bench.create()
        except PowerCut:
            assert set(bench.files() if bench.directory.exists() else ()) <= {
                name + part for name in bench.created for part in ("", ".part")
            }
    bench.create()
    assert bench.whole()
    assert [(bench.directory / name).stat().st_nlink for name in ALL] == [1, 1, 1, 1]


def test_a_part_that_the_journal_names_is_made_again(bench: Bench) -> None:
    bench.directory.mkdir()
    (bench.directory / "root.raw.part").write_bytes(b"half")
    bench.created += ["kernel", "root.raw"]
    bench.create()
    assert bench.whole()
    assert bench.created == ["kernel", "root.raw", "initrd", "data.raw"]


def test_a_part_that_appears_at_the_last_moment_is_not_written_to(bench: Bench) -> None:
    def taken(name: str) -> None:
        (bench.directory / f"{name}.part").write_bytes(b"another's")

    with pytest.raises(StorageError, match="File exists"):
        create_files(bench.instances, bench.domain(), bench.allow, (), taken)
    assert bench.files() == {"kernel.part": b"another's"}


def test_content_is_durable_before_its_name_is_and_all_names_when_it_returns(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, list[str]]] = []
    sync = os.fsync

    def noted(fd: int) -> None:
        files = sorted(os.listdir(bench.directory)) if bench.directory.exists() else []
        synced.append((os.path.basename(os.readlink(f"/proc/self/fd/{fd}")), files))
        sync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    bench.create()
    assert synced == [
        ("instances", []),
        ("kernel.part", ["kernel.part"]),
        ("initrd.part", ["initrd.part", "kernel"]),
        ("root.raw.part", ["initrd", "kernel", "root.raw.part"]),
        ("data.raw.part", ["data.raw.part", "initrd", "kernel", "root.raw"]),
        (UID, ["data.raw", "initrd", "kernel", "root.raw"]),
    ]


def link_in(directory: Path) -> None:
    (directory / "root.raw").symlink_to("/etc/passwd")


def dangling_link_in(directory: Path) -> None:
    (directory / "root.raw.part").symlink_to("/nonexistent")


def hard_link_in(directory: Path) -> None:
    (directory.parent / "elsewhere").write_bytes(b"another's")
    os.link(directory.parent / "elsewhere", directory / "root.raw")


def part_with_a_name_elsewhere_in(directory: Path) -> None:
    (directory.parent / "elsewhere").write_bytes(b"another's")
    os.link(directory.parent / "elsewhere", directory / "root.raw.part")
    os.link(directory.parent / "elsewhere", directory / "root.raw")


def directory_in(directory: Path) -> None:
    (directory / "root.raw").mkdir()


def pipe_in(directory: Path) -> None:
    os.mkfifo(directory / "root.raw")


def file_of_an_unknown_name_in(directory: Path) -> None:
    (directory / "notes.txt").write_bytes(b"keep me")


def part_of_an_unknown_name_in(directory: Path) -> None:
    (directory / "data.raw.part").write_bytes(b"keep me")


def part_of_a_part_in(directory: Path) -> None:
    (directory / "root.raw.part.part").write_bytes(b"keep me")


def lying_in(directory: Path) -> dict[str, tuple[int, ...]]:
    """What lies there; not when it was read last, since a look that changes nothing may change that."""
    found = {path.name: path.lstat() for path in directory.iterdir()}
    return {name: (s.st_ino, s.st_mode, s.st_nlink, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found.items()}


@pytest.mark.parametrize(
    ("disturb", "says"),
    [
        (link_in, "no regular file"),
        (dangling_link_in, "no regular file"),
        (hard_link_in, "it has 2 names, and 1 of them here"),
        (part_with_a_name_elsewhere_in, "it has 3 names, and 2 of them here"),
        (directory_in, "no regular file"),
        (pipe_in, "no regular file"),
        (file_of_an_unknown_name_in, "no journal"),
        (part_of_an_unknown_name_in, "no journal"),
        (part_of_a_part_in, "no journal"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_not_this_vms_is_refused_and_left(disturb: Callable[[Path], None], says: str, bench: Bench) -> None:
    bench.directory.mkdir()
    (bench.directory / "kernel").write_bytes(b"whole")
    (bench.directory / "initrd.part").write_bytes(b"half")
    disturb(bench.directory)
    bench.created += ["kernel", "initrd", "root.raw"]
    before = lying_in(bench.directory)
    error = bench.refusal()
    assert error.reason == reasons.FOREIGN_FILES
    assert says in str(error)
    assert lying_in(bench.directory) == before
    with pytest.raises(StorageError, match=says):
        own_files(bench.instances, UID, bench.created)


def file_at(path: Path) -> None:
    path.write_bytes(b"a file")


def link_at(path: Path) -> None:
    (path.parent / "real").mkdir()
    path.symlink_to("real")


@pytest.mark.parametrize("disturb", [file_at, link_at])
def test_something_else_in_place_of_the_directory_is_refused_and_left(disturb: Callable[[Path], None], bench: Bench) -> None:
    disturb(bench.directory)
    before = bench.directory.lstat()
    assert bench.refusal().reason == reasons.FOREIGN_FILES
    assert bench.directory.lstat() == before
    with pytest.raises(StorageError, match="no directory, or a link"):
        own_files(bench.instances, UID, ())


def test_a_look_for_foreign_files_makes_nothing(bench: Bench) -> None:
    own_files(bench.instances, UID, ())
    assert list(bench.instances.iterdir()) == []


def test_a_look_for_foreign_files_without_the_instances_path_can_not_tell(bench: Bench) -> None:
    bench.instances.rmdir()
    with pytest.raises(StorageError, match="look into the instances path") as refused:
        own_files(bench.instances, UID, ())
    assert refused.value.reason == reasons.STORAGE_ERROR


def test_a_name_that_is_taken_at_the_last_moment_is_not_written_over(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def taken(fd: int) -> None:
        if "root.raw" in bench.created:
            (bench.directory / "root.raw").write_bytes(b"another's")
        sync(fd)

    monkeypatch.setattr(os, "fsync", taken)
    assert "File exists" in str(bench.refusal())
    assert bench.files() == {"kernel": CONTENT["kernel"], "initrd": CONTENT["initrd"], "root.raw": b"another's"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["copy_file_range", "ftruncate", "fsync"])
def test_a_full_disk_leaves_the_whole_files_and_no_part(call: str, code: int, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        # The third copy or truncate is the first disk's, the fourth fsync too: the first is of the instances path.
        failing(call, OSError(code, os.strerror(code)), patch, 4 if call == "fsync" else 3)
        error = bench.refusal()
    assert (error.reason, error.retryable) == (reasons.INSUFFICIENT_DISK, False)
    assert "root.raw" in str(error)
    assert set(bench.files()) == {"kernel", "initrd"}
    bench.create()
    assert bench.whole()


def test_another_error_of_the_file_system_is_told_in_its_words(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    failing("copy_file_range", OSError(errno.EIO, "Input/output error"), monkeypatch)
    error = bench.refusal()
    assert error.reason == reasons.STORAGE_ERROR
    assert "Input/output error" in str(error)
    assert bench.files() == {}


def test_a_missing_instances_path_is_not_made(bench: Bench) -> None:
    bench.instances.rmdir()
    assert bench.refusal().reason == reasons.STORAGE_ERROR
    assert not bench.instances.exists()


def test_a_source_that_can_not_be_used_is_refused_before_its_name_is_noted(bench: Bench) -> None:
    (bench.sources / "root").unlink()
    assert bench.refusal().reason == reasons.SOURCE_UNUSABLE
    assert bench.created == ["kernel", "initrd"]


@pytest.mark.parametrize("name", ["kernel", "initrd"])
def test_a_kernel_or_an_initrd_that_no_copy_would_take_is_refused(name: str, bench: Bench) -> None:
    os.truncate(bench.sources / name, (1 << 30) + 1)
    error = bench.refusal()
    assert error.reason == reasons.SOURCE_UNUSABLE
    assert str((1 << 30) + 1) in str(error)
    assert "root.raw" not in bench.files()


@pytest.mark.parametrize("excess", [0, 1])
def test_a_source_may_be_as_large_as_the_disk_and_no_larger(excess: int, bench: Bench) -> None:
    os.truncate(bench.sources / "root", CAPACITY + excess)
    if excess:
        error = bench.refusal()
        assert error.reason == reasons.SOURCE_UNUSABLE
        assert f"has {CAPACITY + 1} bytes, the disk's capacity is {CAPACITY}" in str(error)
    else:
        bench.create()
        assert bench.whole()


@pytest.mark.parametrize(("lists", "key"), [({"host_paths": ()}, "allow.hostPaths"), ({"kernel_paths": ()}, "allow.kernelPaths")])
def test_disks_and_kernels_have_a_list_each(lists: dict[str, Any], key: str, bench: Bench) -> None:
    allow = bench.allow.model_copy(update=lists)
    for attempt in (
        lambda: bytes_needed(bench.domain(), allow, {}),
        lambda: create_files(bench.instances, bench.domain(), allow, (), bench.created.append),
    ):
        with pytest.raises(StorageError, match=key) as refused:
            attempt()
        assert refused.value.reason == reasons.PATH_NOT_ALLOWED


def test_two_disks_of_one_name_are_refused(bench: Bench) -> None:
    twice = dataclasses.replace(bench.domain(), disks=(bench.disk("root"), bench.disk("root")))
    with pytest.raises(StorageError, match=r"root\.raw") as refused:
        bytes_needed(twice, bench.allow, {})
    assert refused.value.reason == reasons.INVALID_TASK


@pytest.mark.parametrize("more", [{}, {"host_path": HostPath(path="/images/root"), "blank": Blank()}], ids=["none", "two"])
def test_a_disk_has_exactly_one_source(more: dict[str, Any], bench: Bench) -> None:
    wrong = dataclasses.replace(bench.disk("root"), source=DiskSource(**more))
    with pytest.raises(StorageError, match="disk root must have exactly one source") as refused:
        bytes_needed(dataclasses.replace(bench.domain(), disks=(wrong,)), bench.allow, {})
    assert refused.value.reason == reasons.INVALID_TASK


def test_the_file_that_was_synced_gets_the_name_whatever_bears_the_parts_name_by_then(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def replaced(fd: int) -> None:
        sync(fd)
        part = bench.directory / "root.raw.part"
        if part.exists():
            part.rename(bench.directory / "kept")
            part.write_bytes(b"another's")

    monkeypatch.setattr(os, "fsync", replaced)
    bench.create()
    assert bench.files()["root.raw"] == CONTENT["root"]
