"""The forced command, run as sshd runs it: a process of its own, with pipes."""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-P", "-m", "kubeferry.cli.ssh_serve"]


class Agent:
    """An agent that takes one connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.settimeout(30)
        self._listener.bind(str(path))
        self._listener.listen()

    def accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.settimeout(30)
        return connection

    def is_alone(self) -> bool:
        """Whether nobody has connected."""
        self._listener.setblocking(False)
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    listening = Agent(tmp_path / "agent.sock")
    yield listening
    listening.close()


def served(path: Path, command: str | None, peer: str = "a") -> "subprocess.Popen[bytes]":
    environment = {k: v for k, v in os.environ.items() if k != "SSH_ORIGINAL_COMMAND"}
    return subprocess.Popen(
        [*COMMAND, "--socket", path, "--peer", peer],
        env=environment if command is None else environment | {"SSH_ORIGINAL_COMMAND": command},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def exactly(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (more := connection.recv(count - len(got))):
        got += more
    return got


def read_to_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_the_agent_is_told_who_asks_what_and_bytes_go_both_ways(agent: Agent) -> None:
    with served(agent.path, "receive") as process, agent.accept() as connection:
        assert process.stdin is not None
        process.stdin.write(b"\0\xffdata\n")
        process.stdin.flush()
        expected = b'{"peer": "a", "command": "receive"}\n\0\xffdata\n'
        assert exactly(connection, len(expected)) == expected
        connection.sendall(b"\0\xffanswer\n")
        assert process.stdout is not None
        assert process.stdout.read(9) == b"\0\xffanswer\n"
        connection.close()
        assert process.stdout.read() == b""
        assert process.wait(30) == 0


def test_the_other_agents_end_is_told_and_the_answer_still_comes(agent: Agent) -> None:
    with served(agent.path, "make-instance-dir") as process, agent.accept() as connection:
        assert process.stdin is not None
        process.stdin.write(b"request")
        process.stdin.close()
        hello, _, rest = read_to_end(connection).partition(b"\n")
        assert (json.loads(hello), rest) == ({"peer": "a", "command": "make-instance-dir"}, b"request")
        connection.sendall(b"x" * 100_000)
        connection.close()
        assert process.stdout is not None
        assert process.stdout.read() == b"x" * 100_000
        assert process.wait(30) == 0


def test_an_agent_that_ends_ends_it_although_the_other_side_is_open(agent: Agent) -> None:
    with served(agent.path, "receive") as process, agent.accept() as connection:
        assert connection.recv(1 << 16)
        connection.close()
        assert process.wait(30) == 0


def test_what_the_agent_said_last_comes_although_it_took_no_more(agent: Agent) -> None:
    with served(agent.path, "receive") as process, agent.accept() as connection:
        assert process.stdin is not None
        hello = b'{"peer": "a", "command": "receive"}\n'
        assert exactly(connection, len(hello)) == hello
        process.stdin.write(b"x" * 4096)
        process.stdin.flush()
        assert select.select([connection], [], [], 30)[0]  # it has come, and stays unread
        connection.sendall(b"refused")
        connection.close()
        assert process.stdout is not None
        assert process.stdout.read() == b"refused"
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    "command",
    [None, "", "sh", "receive ", "receive x", "receive; id", "RECEIVE", "receive\nmake-instance-dir", "internal-sftp", "x" * 5000],
)
def test_what_is_outside_of_the_vocabulary_is_refused_and_reaches_nobody(command: str | None, agent: Agent) -> None:
    with served(agent.path, command) as process:
        said, told = process.communicate(timeout=30)
        assert process.returncode == 1
    assert said == b""
    assert b"is refused: one of probe-storage, make-instance-dir, receive was expected\n" in told
    assert len(told) < 300
    assert agent.is_alone()


@pytest.mark.parametrize("exists", [False, True])
def test_an_agent_that_does_not_listen_is_told(exists: bool, agent: Agent, tmp_path: Path) -> None:
    agent.close()
    path = agent.path if exists else tmp_path / "none.sock"
    with served(path, "receive") as process:
        _, told = process.communicate(timeout=30)
        assert process.returncode == 1
    assert told.decode().startswith(f"the agent does not listen on {path}: ")


def test_a_name_that_fits_no_hello_is_refused(agent: Agent) -> None:
    with served(agent.path, "receive", peer="a" * 2000) as process:
        _, told = process.communicate(timeout=30)
        assert process.returncode == 1
    assert b"2000 characters long" in told


def test_it_loads_nothing_of_what_makes_the_agent_slow_to_start() -> None:
    heavy = "libvirt", "kopf", "kubernetes", "paramiko", "cryptography", "blake3"
    code = f"import sys, kubeferry.cli.main, kubeferry.agent.transfer.serve; print([m for m in {heavy!r} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said == "[]\n"
