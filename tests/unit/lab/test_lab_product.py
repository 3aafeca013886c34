"""An agent of the lab and the sshd beside it: who is started when, and what is said when one does not come."""

import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from lab import mountpoint, product
from lab.network import Network
from lab.processes import Process, Processes
from lab.product import Agent
from lab.record import Record
from lab.site import Site
from lab.steps import LabError

MakeAgent = Callable[..., tuple[Agent, "LocalHost"]]
LISTENS = "import socket, sys, time\nlistener = socket.create_server(('127.0.0.1', int(sys.argv[1])))\ntime.sleep(64)"
WRITES_CONFIG = """\
import pathlib, sys, time
path = pathlib.Path(sys.argv[1])
path.parent.mkdir(parents=True, exist_ok=True)
path.touch()
time.sleep(64)
"""
ENDS = "print('no libvirt here', flush=True)\nraise SystemExit(3)"


class LocalHost:
    """A host that is this machine, where scripts stand for the agent and for sshd."""

    name = "worker-1"
    address = "127.0.0.1"

    def __init__(self, site: Site, scripts: Mapping[str, Sequence[str]]) -> None:
        self.root = site.directory
        self.asked: list[tuple[str, list[str]]] = []
        self.processes: list[Process] = []
        self._site = site
        self._scripts = scripts

    def spawn(self, name: str, argv: Sequence[str | Path], log: Path, env: Mapping[str, str]) -> Process:
        self.asked.append((name, [str(word) for word in argv]))
        stand_in = [sys.executable, "-c", *self._scripts[name]]
        self.processes.append(self._site.processes.spawn(f"{name} on {self.name}", stand_in, log, env=env))
        return self.processes[-1]

    def started(self) -> list[str]:
        """What was started here, in that order."""
        return [name for name, _ in self.asked]


class Identities:
    def kubeconfig(self, identity: str) -> Path:
        return Path(f"/kubeconfigs/{identity}")


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = int(taken.getsockname()[1])
    monkeypatch.setattr(product, "SSH_PORT", number)
    return number


@pytest.fixture
def make(tmp_path: Path, port: int) -> Iterator[MakeAgent]:
    """Makes an agent whose process runs `agent`, and whose sshd runs `sshd`."""
    for part in ("logs", "config"):
        (tmp_path / part).mkdir()
    site = Site("lab-1", tmp_path, Network("lab-1", 1), Record(tmp_path), Processes(Record(tmp_path)))
    made: list[LocalHost] = []

    def agent(agent: str = WRITES_CONFIG, sshd: str = LISTENS) -> tuple[Agent, LocalHost]:
        host = LocalHost(site, {"agent": (agent, str(tmp_path / product.SSHD_CONFIG)), "sshd": (sshd, str(port))})
        made.append(host)
        return Agent(site, Identities(), host), host  # type: ignore[arg-type]

    yield agent
    for host in made:
        for process in host.processes:
            process.kill()


def test_sshd_is_started_by_the_configuration_that_the_agent_wrote(make: MakeAgent) -> None:
    agent, host = make()
    agent.start()
    assert host.started() == ["agent", "sshd"]
    assert host.asked[1][1] == ["/usr/sbin/sshd", "-D", "-e", "-f", f"{mountpoint.PATH}/state/ssh/sshd_config"]


def test_the_agent_is_told_its_address_and_the_port_that_its_sshd_is_waited_for_at(make: MakeAgent, port: int) -> None:
    assert product.agent_config("worker-2", "10.0.0.2").items() >= {"migrationAddress": "10.0.0.2", "sshPort": port}.items()


def test_without_a_configuration_no_sshd_is_started_and_the_end_of_the_agents_log_says_why(make: MakeAgent) -> None:
    agent, host = make(agent=ENDS)
    with pytest.raises(LabError) as caught:
        agent.start()
    expected = "waiting for agent on worker-1 to write state/ssh/sshd_config: agent on worker-1 ended with 3 (last seen: no such file)"
    assert str(caught.value).startswith(expected)
    assert "no libvirt here" in str(caught.value)
    assert host.started() == ["agent"]


def test_an_sshd_that_does_not_listen_is_told_with_the_end_of_its_log(make: MakeAgent) -> None:
    agent, _ = make(sshd="print('Missing privilege separation directory', flush=True)\nraise SystemExit(255)")
    with pytest.raises(LabError, match=r"(?s)waiting for sshd on worker-1 to listen: sshd on worker-1 ended with 255 .*Missing privilege"):
        agent.start()


def test_an_agent_that_is_killed_leaves_its_sshd_to_the_next_one(make: MakeAgent) -> None:
    agent, host = make()
    agent.start()
    sshd = agent.sshd
    agent.process.kill()
    agent.start()
    assert agent.sshd is sshd
    assert sshd.ended() is None
    assert host.started() == ["agent", "sshd", "agent"]


def test_an_sshd_that_ended_as_in_a_power_cut_is_started_again_with_the_agent(make: MakeAgent) -> None:
    agent, host = make()
    agent.start()
    ended = agent.sshd
    for process in (agent.process, ended):
        process.kill()
    agent.start()
    assert agent.sshd is not ended
    assert agent.sshd.ended() is None
    assert host.started() == ["agent", "sshd", "agent", "sshd"]
