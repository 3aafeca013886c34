"""Whose children a process's children are, when its pid may be another's by the time they are read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import processes
from lab.processes import Process, Processes, children, identify
from lab.record import Identity, Record
from lab.steps import NotYet, wait_until

OURS, STRANGER = 10, 20


class Proc:
    """A /proc in a directory: as much of it as the lab reads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        boot = directory / "sys/kernel/random/boot_id"
        boot.parent.mkdir(parents=True)
        boot.write_text("boot\n")

    def put(self, pid: int, *, parent: int, born: int, children: str = "") -> Identity:
        """A process; it takes the place of an earlier one with this pid."""
        task = self._directory / f"{pid}/task/{pid}"
        task.mkdir(parents=True, exist_ok=True)
        (task / "children").write_text(children)
        fields = [str(parent), *["0"] * 17, str(born), "0"]
        (self._directory / f"{pid}/stat").write_text(f"{pid} (a ) name) S {' '.join(fields)}\n")
        return Identity(pid, f"{born}@boot")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    monkeypatch.setattr(processes, "PROC", tmp_path)
    return Proc(tmp_path)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Process]:
    argv = ["sh", "-c", "sleep 62 & wait"]
    process = Processes(Record(tmp_path)).spawn("parent", argv, tmp_path / "log", env={"PATH": "/usr/bin:/bin"})
    yield process
    processes.kill_group(process.target)
    process.reap()


def test_a_process_has_the_children_that_it_started_until_it_ends(parent: Process) -> None:
    def started() -> Identity:
        for child in children(parent.target):
            return child
        raise NotYet("no child")

    child = wait_until("the child", started, seconds=5)
    assert children(parent.target) == [child]
    assert identify(child.pid) == child
    parent.kill()
    assert children(parent.target) == []


def test_the_children_of_a_stranger_that_got_a_recorded_pid_are_not_ours(proc: Proc) -> None:
    recorded = proc.put(OURS, parent=1, born=100)
    proc.put(OURS, parent=1, born=300, children="20")
    proc.put(STRANGER, parent=OURS, born=301)
    assert children(recorded) == []


def test_a_parent_that_ends_right_after_it_was_seen_to_run_does_not_lend_its_pid_to_a_strangers_children(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = proc.put(OURS, parent=1, born=100, children="11")
    child = proc.put(11, parent=OURS, born=101)
    runs = processes.runs

    def runs_and_then_ends(identity: Identity) -> bool:
        answer = runs(identity)
        proc.put(OURS, parent=1, born=300, children="20")
        proc.put(STRANGER, parent=OURS, born=301)
        return answer

    monkeypatch.setattr(processes, "runs", runs_and_then_ends)
    assert children(recorded) == [child]


def test_a_stranger_that_got_the_pid_of_a_child_that_ended_is_no_child(proc: Proc) -> None:
    recorded = proc.put(OURS, parent=1, born=100, children="11 20 30")
    child = proc.put(11, parent=OURS, born=101)
    proc.put(STRANGER, parent=1, born=300)
    assert children(recorded) == [child]
