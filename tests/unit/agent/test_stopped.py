"""A VM counts as stopped only if each of three looks says so, and a look that fails never says so."""

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agent_rig import Rig
from builders import UID
from hypervisor_contract import OTHER_UUID, machine
from image_holder import held_by_qemu

from kubeferry.agent import stopped as stopped_module
from kubeferry.agent.errors import RefusedError
from kubeferry.agent.stopped import StopProof
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.virt import processes
from kubeferry.agent.virt.port import HypervisorError
from kubeferry.agent.virt.processes import qemu_process
from kubeferry.api import reasons


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with those arguments, until its input is closed."""
    argv = [sys.executable, "-c", "print(flush=True); input()", *arguments]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as started:
        assert started.stdout is not None
        started.stdout.readline()  # before that, it may not have its arguments yet
        yield started


@pytest.fixture
def image(rig: Rig) -> Path:
    path = rig.path / "instances" / UID / "root.raw"
    path.parent.mkdir()
    path.write_bytes(b"guest" * 1000)
    return path


async def not_stopped(rig: Rig) -> str:
    """The message of a refusal."""
    with pytest.raises(RefusedError) as refused:
        await StopProof(rig.machine, rig.calls).require(rig.domain())
    assert (refused.value.reason, refused.value.retryable) == (reasons.NOT_STOPPED, True)
    return str(refused.value)


async def unknown(rig: Rig) -> StorageError:
    """The error of a look that failed."""
    with pytest.raises(StorageError) as failed:
        await StopProof(rig.machine, rig.calls).require(rig.domain())
    assert failed.value.reason == reasons.STORAGE_ERROR
    return failed.value


async def test_a_vm_of_which_nothing_is_here_is_stopped(rig: Rig) -> None:
    await StopProof(rig.machine, rig.calls).require(rig.domain())


async def test_a_vm_whose_disk_is_not_made_yet_or_was_moved_is_stopped(rig: Rig) -> None:
    (rig.path / "instances" / UID).mkdir()
    await StopProof(rig.machine, rig.calls).require(rig.domain())


async def test_a_vm_whose_disks_are_free_beside_others_that_run_is_stopped(rig: Rig, image: Path) -> None:
    rig.hypervisor.create(machine(OTHER_UUID, "other"), lambda: True)
    with process("-uuid", OTHER_UUID):
        await StopProof(rig.machine, rig.calls).require(rig.domain())


async def test_a_vm_that_libvirt_runs_is_not_stopped(rig: Rig) -> None:
    rig.hypervisor.create(machine(UID, "web"), lambda: True)
    assert "which runs" in await not_stopped(rig)


async def test_a_vm_that_libvirt_only_defines_could_be_started_by_anybody(rig: Rig) -> None:
    rig.hypervisor.define(machine(UID, "web"))
    assert "undefine it" in await not_stopped(rig)


async def test_without_libvirt_nothing_is_proved(rig: Rig) -> None:
    rig.hypervisor.stop_service()
    with pytest.raises(HypervisorError) as refused:
        await StopProof(rig.machine, rig.calls).require(rig.domain())
    assert refused.value.reason == reasons.HYPERVISOR_UNREACHABLE


@pytest.mark.parametrize("held", ["root", "data"])
async def test_a_vm_one_of_whose_disks_a_qemu_has_is_not_stopped(rig: Rig, image: Path, held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = image.with_name("data.raw")
    data.write_bytes(b"data" * 1000)
    domain = rig.domain()
    two = dataclasses.replace(domain, disks=(*domain.disks, dataclasses.replace(domain.disks[0], name="data")))
    monkeypatch.setattr(rig, "domain", lambda: two)
    with held_by_qemu(image.with_name(f"{held}.raw")):
        assert f"{held}.raw" in await not_stopped(rig)
    await StopProof(rig.machine, rig.calls).require(two)


async def test_a_vm_whose_qemu_lives_is_not_stopped_whatever_libvirt_knows(rig: Rig) -> None:
    with process("-name", "guest=web", "-uuid", UID.upper(), "-no-user-config") as qemu:
        assert f"process {qemu.pid} " in await not_stopped(rig)
    await StopProof(rig.machine, rig.calls).require(rig.domain())


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((UID,), id="the uuid alone"),
        pytest.param(("-name", UID), id="the uuid as another argument"),
        pytest.param(("-uuid",), id="no uuid"),
        pytest.param(("-uuid", UID + "0"), id="a longer uuid"),
    ],
)
def test_a_process_is_the_vms_only_by_its_argument_uuid(arguments: tuple[str, ...]) -> None:
    with process(*arguments):
        assert qemu_process(UID) is None


def test_a_process_that_has_ended_and_was_not_waited_for_is_none(tmp_path: Path) -> None:
    with process("-uuid", UID) as qemu:
        assert qemu_process(UID) == qemu.pid
        assert qemu.stdin is not None
        qemu.stdin.close()
        os.waitid(os.P_PID, qemu.pid, os.WEXITED | os.WNOWAIT)
        assert (Path("/proc") / str(qemu.pid)).exists()
        assert qemu_process(UID) is None


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc that tells of this process, and of number 1."""
    path = tmp_path / "proc"
    for pid in (1, os.getpid()):
        (path / str(pid)).mkdir(parents=True)
        (path / str(pid) / "cmdline").write_bytes(b"init\0")
    (path / "meminfo").touch()
    monkeypatch.setattr(processes, "PROC", path)
    return path


def test_a_process_that_renamed_itself_to_end_in_the_argument_is_none(proc: Path) -> None:
    (proc / "1" / "cmdline").write_bytes(b"renamed\0-uuid")
    assert qemu_process(UID) is None


def test_a_process_that_vanishes_before_it_is_looked_at_is_gone(proc: Path) -> None:
    (proc / "1" / "cmdline").unlink()
    assert qemu_process(UID) is None


def test_a_process_that_vanishes_while_it_is_looked_at_is_gone(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def vanishing(path: Path) -> bytes:
        if path == proc / "1" / "cmdline":
            raise ProcessLookupError
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", vanishing)
    assert qemu_process(UID) is None


async def test_a_proc_that_is_another_process_namespaces_proves_nothing(rig: Rig, proc: Path) -> None:
    (proc / str(os.getpid()) / "cmdline").unlink()
    (proc / str(os.getpid())).rmdir()
    assert "does not tell of this very process" in str(await unknown(rig))


async def test_a_proc_that_can_not_be_read_proves_nothing(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PROC", tmp_path / "missing")
    assert "missing" in str(await unknown(rig))


async def test_a_process_that_can_not_be_looked_at_proves_nothing(rig: Rig, proc: Path) -> None:
    (proc / "1" / "cmdline").unlink()
    (proc / "1" / "cmdline").mkdir()
    assert str(proc) in str(await unknown(rig))


async def test_without_the_instances_path_nothing_is_proved(rig: Rig) -> None:
    (rig.path / "instances").rmdir()
    assert "instances" in str(await unknown(rig))


async def test_an_instance_directory_that_is_none_proves_nothing(rig: Rig) -> None:
    (rig.path / "instances" / UID).write_bytes(b"a file")
    assert UID in str(await unknown(rig))


async def test_a_disk_that_can_not_be_looked_at_proves_nothing(rig: Rig) -> None:
    (rig.path / "instances" / UID).mkdir()
    (rig.path / "instances" / UID / "root.raw").symlink_to("nowhere")
    assert "root.raw" in str(await unknown(rig))


async def test_a_look_that_does_not_return_proves_nothing(rig: Rig, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(stopped_module, "image_is_free", lambda _path: answers.wait())
    try:
        with pytest.raises(StorageError, match="does not return") as failed:
            await StopProof(rig.machine, rig.calls, deadline=0.05).require(rig.domain())
    finally:
        answers.set()
    assert failed.value.retryable
