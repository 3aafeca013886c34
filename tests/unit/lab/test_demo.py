"""What the user of a demo that fails gets to see."""

from pathlib import Path

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
