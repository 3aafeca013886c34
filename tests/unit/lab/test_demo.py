"""What the user of a demo gets to see of a migration, and of a demo that fails."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import demo
from lab.steps import LabError

NO_WORKER_1, NO_WORKER_2 = LabError("worker-1 does not boot"), LabError("worker-2 does not boot")


class FakeLab:
    """A lab that fails where it is told to."""

    def __init__(self, start: Exception | None = None, kubectl: Exception | None = None, stop: Exception | None = None) -> None:
        self._start, self._kubectl, self._stop = start, kubectl, stop
        self.started = self.stopped = False

    def start(self) -> None:
        if self._start:
            raise self._start
        self.started = True

    def kubectl(self, *_: str) -> None:
        assert self.started
        if self._kubectl:
            raise self._kubectl

    def stop(self) -> None:
        if not self.started:
            raise LabError("the lab was not started")
        if self._stop:
            raise self._stop
        self.stopped = True

    def kubeconfig(self) -> Path:
        if not self.started:
            raise LabError("the lab's cluster was not started")
        return Path("/lab/kubeconfig")


def run(lab: FakeLab, monkeypatch: pytest.MonkeyPatch, keep: str = "") -> int:
    monkeypatch.setattr(demo, "Lab", lambda: lab)
    monkeypatch.setenv("KEEP", keep)
    return demo.main()


@pytest.mark.parametrize("keep", ["", "1"], ids=["remove", "keep"])
@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (NO_WORKER_1, ["the demo failed: worker-1 does not boot"]),
        (
            ExceptionGroup("several steps of the lab failed", [NO_WORKER_1, NO_WORKER_2]),
            ["the demo failed: worker-1 does not boot", "the demo failed: worker-2 does not boot"],
        ),
    ],
    ids=["one step", "several at once"],
)
def test_a_lab_that_does_not_start_is_told_by_its_messages_alone_and_neither_stopped_nor_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, lines: list[str], keep: str
) -> None:
    assert run(FakeLab(start=error), monkeypatch, keep) == 1
    said = capsys.readouterr()
    assert said.err == "".join(f"\n{line}\n" for line in lines)
    assert "KUBECONFIG" not in said.out


def test_a_defect_among_the_labs_failures_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        run(FakeLab(start=ExceptionGroup("several", [NO_WORKER_1, ZeroDivisionError()])), monkeypatch)
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
    assert "worker-1 does not boot" in capsys.readouterr().err


def test_a_step_that_fails_is_told_and_the_lab_is_removed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lab = FakeLab(kubectl=LabError("no Ready"))
    assert run(lab, monkeypatch) == 1
    assert lab.stopped
    said = capsys.readouterr()
    assert said.err == "\nthe demo failed: no Ready\n"
    assert "Every step was observed" not in said.out


def test_a_step_that_fails_in_a_lab_that_is_to_be_kept_leaves_it_to_look_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = FakeLab(kubectl=LabError("no Ready"))
    assert run(lab, monkeypatch, keep="1") == 1
    assert not lab.stopped
    assert capsys.readouterr().out.endswith("export KUBECONFIG=/lab/kubeconfig\n")


def test_a_step_that_fails_by_a_defect_removes_the_lab_too(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = FakeLab(kubectl=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        run(lab, monkeypatch)
    assert lab.stopped


def test_a_lab_that_cannot_be_removed_is_told_and_not_called_removed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo.Demo, "steps", lambda _: None)
    assert run(FakeLab(stop=LabError("still running: pid 7")), monkeypatch) == 1
    said = capsys.readouterr()
    assert said.err == "\nthe demo failed: still running: pid 7\n"
    assert "everything is removed again" not in said.out


class MovingLab:
    """A lab where a Migration is one state further whenever its row is looked at."""

    def __init__(self, tmp_path: Path, *states: dict[str, Any]) -> None:
        self._log = tmp_path / "controller.log"
        self._states = list(states)
        self._now: dict[str, Any] = {}

    def log(self, _: str) -> Path:
        return self._log

    def kubectl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        assert words[:3] == ("get", "fmig", "web-0-move")
        if words[3:] == ("-o", "json"):
            out = json.dumps({"status": self._now})
        else:
            self._now = self._states.pop(0) if self._states else self._now
            out = f"NAME         PHASE              AGE\nweb-0-move   {self._now['phase']:16}   1s\n"
        return subprocess.CompletedProcess(words, 0, out, "")


def told(phase: str, *conditions: tuple[str, str]) -> dict[str, Any]:
    return {
        "phase": phase,
        "conditions": [{"type": kind, "status": status, "reason": "Because", "message": "of this"} for kind, status in conditions],
    }


def test_a_migration_is_shown_until_it_is_in_the_phase_that_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = (("NeedsAttention", "False"), ("Succeeded", "Unknown"))
    states = ["Preparing", "Preparing", "AwaitingDecision", "Confirming"]
    demo.Demo(MovingLab(tmp_path, *(told(phase, *quiet) for phase in states))).follow("web-0-move", "AwaitingDecision")  # type: ignore[arg-type]
    command, *lines = capsys.readouterr().out.splitlines()
    assert command.startswith("$ kubectl get fmig web-0-move ")
    assert [line.split() for line in lines] == [
        ["NAME", "PHASE", "AGE"],
        ["web-0-move", "Preparing", "1s"],
        ["web-0-move", "AwaitingDecision", "1s"],
    ]


@pytest.mark.parametrize(("kind", "status"), [("NeedsAttention", "True"), ("Succeeded", "False")])
def test_a_migration_that_goes_wrong_is_not_waited_for_and_says_why(tmp_path: Path, kind: str, status: str) -> None:
    lab = MovingLab(tmp_path, told("Pending"), told("Failed", (kind, status)))
    with pytest.raises(LabError, match=f"web-0-move: {kind}/Because: of this"):
        demo.Demo(lab).follow("web-0-move", "AwaitingDecision")  # type: ignore[arg-type]


def test_a_migration_that_does_not_get_there_is_told_with_its_phase_and_the_controllers_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "MOVE_SECONDS", 0.1)
    lab = MovingLab(tmp_path, told("Copying"))
    lab.log("controller").write_text("no news\n")
    with pytest.raises(LabError, match=r"(?s)web-0-move to be in phase AwaitingDecision: .*its phase is Copying.*no news"):
        demo.Demo(lab).follow("web-0-move", "AwaitingDecision")  # type: ignore[arg-type]
