"""Processes that stand for QEMU, seen from outside."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from watcher import Watcher

from lab.processes import myself
from lab.record import Identity
from lab.steps import LabError, NotYet, wait_until
from lab.witness import ELSEWHERE, qemu_by_host, qemu_processes

UID = str(uuid.uuid4())
"""Of no other run of these tests on this machine."""


class HereHost:
    """A host whose processes are this machine's own."""

    def __init__(self, on: bool = True) -> None:
        self._on = on

    def is_on(self) -> bool:
        return self._on

    def first_process(self) -> Identity:
        if not self._on:
            raise LabError("off")
        return myself()


@contextmanager
def qemu(uid: str = UID, program: str = "/usr/bin/qemu-system-x86_64") -> Iterator["subprocess.Popen[bytes]"]:
    """A process with QEMU's command line."""
    with subprocess.Popen([program, "-c", "read -r _", "guest", "-uuid", uid], executable="/bin/sh", stdin=subprocess.PIPE) as process:

        def has_become_it() -> None:
            if program.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                raise NotYet("it is still ours")

        try:
            wait_until("its command line", has_become_it, seconds=5)
            yield process
        finally:
            process.kill()


def test_only_qemu_with_the_uid_on_its_command_line_is_the_vm() -> None:
    with qemu() as vm, qemu(uid="another"), qemu(program="/usr/bin/qemu-img"):
        assert qemu_processes(UID) == [vm.pid]


def test_a_qemu_that_is_defunct_is_not_alive() -> None:
    with qemu() as vm:
        vm.kill()

        def gone() -> None:
            if qemu_processes(UID):
                raise NotYet("it is counted")

        wait_until("it to be counted no more, though nobody has reaped it", gone, seconds=5)
        assert Path(f"/proc/{vm.pid}").exists()


@pytest.mark.parametrize(("hosts", "expected"), [({"a": HereHost()}, "a"), ({"b": HereHost(on=False)}, ELSEWHERE), ({}, ELSEWHERE)])
def test_a_process_is_on_the_host_whose_pid_namespace_it_is_in(hosts: dict[str, HereHost], expected: str) -> None:
    with qemu() as first, qemu() as second:
        found = qemu_by_host(hosts, UID)  # type: ignore[arg-type]
        assert {name: sorted(pids) for name, pids in found.items()} == {expected: sorted([first.pid, second.pid])}


def test_a_watcher_tells_how_many_there_were_at_once_and_which_in_their_order() -> None:
    def sees(watcher: Watcher, pid: int) -> None:
        def seen() -> None:
            if pid not in watcher.seen:
                raise NotYet(f"it has seen {watcher.seen}")

        wait_until("the watcher to see it", seen, seconds=5)

    with Watcher(UID) as watcher:
        with qemu() as first:
            sees(watcher, first.pid)
        assert watcher.most == 1
        with qemu() as second, qemu() as third:
            sees(watcher, second.pid)
            sees(watcher, third.pid)
    assert watcher.most == 2
    assert watcher.seen[0] == first.pid
    assert sorted(watcher.seen[1:]) == sorted([second.pid, third.pid])
