import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.processes import Process, Processes, identify, kill_group, myself, runs, send
from lab.record import Identity, Record, Started
from lab.steps import LabError, NotYet, wait_until

ENV = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    process = Processes(Record(tmp_path)).spawn("sleeper", ["sleep", "60"], tmp_path / "log", env=ENV)
    yield process
    process.kill()


def test_a_process_is_on_record_as_what_it_is(tmp_path: Path, sleeper: Process) -> None:
    assert Record(tmp_path).entries() == [Started("sleeper", sleeper.target)]
    assert runs(sleeper.target)


def test_a_process_that_cannot_be_recorded_never_runs(tmp_path: Path) -> None:
    processes = Processes(Record(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError):
        processes.spawn("toucher", ["touch", tmp_path / "touched"], tmp_path / "log", env=ENV)
    with pytest.raises(FileNotFoundError):
        processes.run(["touch", tmp_path / "touched"])
    assert not (tmp_path / "touched").exists()


def test_another_process_with_a_recorded_pid_is_not_touched(sleeper: Process) -> None:
    recycled = Identity(sleeper.target.pid, "1@another-boot")
    send(recycled, signal.SIGKILL)
    kill_group(recycled)
    assert not runs(recycled)
    sleeper.signal(signal.SIGSTOP)

    def stopped() -> None:
        if ") T " not in Path(f"/proc/{sleeper.target.pid}/stat").read_text():
            raise NotYet("not stopped")

    wait_until("it to stop, as no killed process would", stopped, seconds=5)


def test_the_same_ticks_after_another_boot_of_the_machine_are_another_process() -> None:
    me = myself()
    assert runs(me)
    assert not runs(Identity(me.pid, me.born.partition("@")[0] + "@another-boot"))


def test_a_defunct_process_does_not_run() -> None:
    with subprocess.Popen(["sleep", "60"]) as popen:
        identity = identify(popen.pid)
        assert identity is not None
        popen.kill()

        def defunct() -> None:
            if runs(identity):
                raise NotYet("runs")

        wait_until("a zombie", defunct, seconds=5)
        assert Path(f"/proc/{popen.pid}").exists()


def test_a_killed_process_is_reaped_and_says_how_it_ended(sleeper: Process) -> None:
    assert sleeper.ended() is None
    sleeper.kill()
    assert sleeper.ended() == "sleeper ended with -9"
    assert not Path(f"/proc/{sleeper.target.pid}").exists()


def test_a_process_that_ignores_sigterm_fails_a_stop_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = ["sh", "-c", "trap '' TERM; echo I stay; while :; do sleep 1; done"]
    process = Processes(Record(tmp_path)).spawn("stubborn", argv, log, env=ENV)
    try:

        def talks() -> None:
            if not log.read_text():
                raise NotYet("silence")

        wait_until("its trap", talks, seconds=5)
        with pytest.raises(LabError, match=r"(?s)the end of stubborn: not within 0.2 s.*I stay"):
            process.stop(seconds=0.2)
    finally:
        kill_group(process.target)
        process.reap()


def test_a_command_gets_its_stdin_and_gives_its_stdout(tmp_path: Path) -> None:
    assert Processes(Record(tmp_path)).run(["cat"], stdin="a\nb\n") == "a\nb\n"


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"not done within 0\.3 s"):
        Processes(Record(tmp_path)).run(["sh", "-c", f"sleep 61 & echo $! > {tmp_path}/child; wait"], seconds=0.3)
    child = int((tmp_path / "child").read_text())

    def gone() -> None:
        if identify(child):
            raise NotYet("runs")

    wait_until("the end of the child", gone, seconds=5)
