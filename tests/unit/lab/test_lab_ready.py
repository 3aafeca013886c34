"""What is said when kubeferry does not start in a lab that works."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import lab as module
from lab.lab import Lab
from lab.processes import Process, Processes
from lab.record import Record
from lab.steps import LabError, NotYet, wait_until

Spawn = Callable[[str, str], Process]
STAYS = "exec sleep 63"


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Starts a shell script that stands for a part of kubeferry, and returns once it wrote to its log."""
    spawned: list[Process] = []

    def start(name: str, script: str) -> Process:
        log = tmp_path / f"{name}.log"
        process = Processes(Record(tmp_path)).spawn(name, ["sh", "-c", script], log, env={"PATH": "/usr/bin:/bin"})
        spawned.append(process)

        def wrote() -> None:
            if not log.read_text():
                raise NotYet("nothing")

        wait_until("its log", wrote, seconds=5)
        return process

    yield start
    for process in spawned:
        process.kill()


class StartedLab(Lab):
    """A lab whose infrastructure works, with one host, and with these processes for kubeferry's."""

    def __init__(self, controller: Process, agent: Process, told: str, errors: str = "") -> None:
        super().__init__(hosts=("worker-1",))
        self._fakes = controller, agent
        self._told = subprocess.CompletedProcess([], 0, told, errors)
        self.stopped = False

    def start_infrastructure(self) -> None:
        pass

    def start_controller(self) -> Process:
        return self.controller

    def start_agent(self, host: str) -> Process:
        return self.agent(host)

    @property
    def controller(self) -> Process:
        return self._fakes[0]

    def agent(self, host: str) -> Process:
        assert host == "worker-1"
        return self._fakes[1]

    def kubectl(self, *_: str, **__: object) -> "subprocess.CompletedProcess[str]":
        return self._told

    def stop(self) -> list[str]:
        self.stopped = True
        return []


def test_a_lab_whose_agents_are_ready_and_whose_controller_runs_is_started(spawn: Spawn) -> None:
    lab = StartedLab(spawn("controller", f"echo up; {STAYS}"), spawn("agent", f"echo up; {STAYS}"), "True/AgentReady: libvirt answers")
    lab.start()
    assert not lab.stopped


@pytest.mark.parametrize(
    ("told", "errors", "seen"),
    [
        ("False/HypervisorUnreachable: no socket", "", "Ready=False/HypervisorUnreachable: no socket"),
        ("", "", "no condition Ready"),
        ("", "Error from server (NotFound)\n", "Error from server (NotFound)"),
    ],
)
def test_an_agent_that_does_not_get_ready_is_named_with_what_it_told_and_the_end_of_its_log(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, told: str, errors: str, seen: str
) -> None:
    monkeypatch.setattr(module, "READY_SECONDS", 0.1)
    agent = spawn("agent", f"echo no libvirt here; {STAYS}")
    lab = StartedLab(spawn("controller", f"echo up; {STAYS}"), agent, told, errors)
    with pytest.raises(LabError) as caught:
        lab.start()
    expected = "waiting for kubeferry's agent on worker-1 to tell Ready=True in its ComputeNode: not within 0.1 s"
    assert str(caught.value) == f"{expected} (last seen: {seen})\n--- last lines of {agent.log}\nno libvirt here\n---"
    assert lab.stopped


def test_a_controller_that_ended_while_the_agents_got_ready_is_told_with_the_end_of_its_log(spawn: Spawn) -> None:
    controller = spawn("controller", "echo no such CRD; exit 3")
    controller.reap()
    lab = StartedLab(controller, spawn("agent", f"echo up; {STAYS}"), "True/AgentReady: libvirt answers")
    with pytest.raises(LabError) as caught:
        lab.start()
    log = f"--- last lines of {controller.log}\nno such CRD\n---"
    assert str(caught.value) == f"kubeferry's controller ended with 3, expected it to run\n{log}"
    assert lab.stopped
