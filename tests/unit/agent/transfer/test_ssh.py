"""The line to another agent, against a real sshd, and against what only looks like one."""

import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest
from sshd import Sshd, Target

from kubeferry.agent.transfer import ssh
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.keys import Keys, ensure_keys
from kubeferry.agent.transfer.ssh import connect, run
from kubeferry.agent.transfer.sshd import authorized_keys, write_authorized_keys
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint

Reached = tuple[Target, Sshd, SshEndpoint, Keys]


def refusal(endpoint: SshEndpoint, identity: Path) -> TransferError:
    with pytest.raises(TransferError) as refused, connect(endpoint, identity):
        pytest.fail("connected")
    return refused.value


@contextmanager
def listening(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """Something on a port that is no sshd: what it answers to one connection; the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(30)
        assert not thread.is_alive()


def until_closed(connection: socket.socket) -> None:
    connection.settimeout(30)
    while connection.recv(1 << 16):
        pass


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return ensure_keys(tmp_path)


@pytest.fixture
def endpoint(keys: Keys) -> SshEndpoint:
    """Where nothing is yet."""
    return SshEndpoint(address="127.0.0.1", port=1, host_key=keys.host_public, identity_key=keys.identity_public)


def test_a_host_with_the_pinned_key_lets_the_known_agent_in(reached: Reached) -> None:
    _, _, endpoint, keys = reached
    with connect(endpoint, keys.identity) as transport:
        assert transport.is_authenticated()
        assert transport.get_username() == "root"
    assert not transport.is_active()


def test_another_host_key_than_the_pinned_is_refused_before_this_host_tells_who_it_is(reached: Reached) -> None:
    _, sshd, endpoint, keys = reached
    refused = refusal(dataclasses.replace(endpoint, host_key=keys.host_public), keys.identity)
    assert (refused.reason, refused.retryable) == (reasons.SSH_HOST_KEY_MISMATCH, False)
    assert keys.host_public in str(refused)
    said = sshd.end()
    assert any("preauth" in line for line in said)
    assert not any("root" in line for line in said), "no name was told, so no login was tried"


def test_a_key_that_sshd_does_not_know_is_refused_without_a_prompt(reached: Reached, keys: Keys) -> None:
    _, _, endpoint, _ = reached
    refused = refusal(endpoint, keys.identity)
    assert (refused.reason, refused.retryable) == (reasons.SSH_AUTHENTICATION_FAILED, True)
    assert f"127.0.0.1 port {endpoint.port}" in str(refused)


def test_a_key_is_let_in_and_out_without_a_restart_of_sshd(reached: Reached) -> None:
    target, _, endpoint, keys = reached
    allowed = authorized_keys(ensure_keys(target.machine.settings.state_path))
    write_authorized_keys(allowed, {}, target.socket)
    assert refusal(endpoint, keys.identity).reason == reasons.SSH_AUTHENTICATION_FAILED
    write_authorized_keys(allowed, {"a": keys.identity_public}, target.socket)
    with connect(endpoint, keys.identity) as transport:
        assert transport.is_authenticated()


@pytest.mark.parametrize("command", ["id", "receive /etc", "make-instance-dir; id"])
def test_a_command_outside_of_the_vocabulary_is_refused(command: str, reached: Reached) -> None:
    _, _, endpoint, keys = reached
    with connect(endpoint, keys.identity) as transport, run(transport, command) as line, pytest.raises(TransferError) as refused:
        line.receive()
    assert refused.value.reason == reasons.TRANSFER_BROKEN
    assert f"the command '{command}' is refused: one of probe-storage, make-instance-dir, receive was expected" in str(refused.value)


def test_an_agent_that_says_nothing_from_the_start_is_given_up(reached: Reached, monkeypatch: pytest.MonkeyPatch) -> None:
    target, _, endpoint, keys = reached
    monkeypatch.setattr(ssh, "SILENCE_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(target.socket))
        agent.listen()
        with (
            connect(endpoint, keys.identity) as transport,
            run(transport, "receive") as line,
            pytest.raises(TransferError, match="said nothing for 0 s") as refused,
        ):
            line.receive()
    assert refused.value.reason == reasons.TRANSFER_BROKEN


def test_no_shell_no_terminal_no_subsystem_and_no_forwarding_is_to_be_had(reached: Reached) -> None:
    _, _, endpoint, keys = reached
    with connect(endpoint, keys.identity) as transport:
        shell = transport.open_session(timeout=30)
        shell.settimeout(30)
        shell.invoke_shell()
        assert b"is refused" in shell.makefile_stderr("rb").read()
        terminal = transport.open_session(timeout=30)
        with pytest.raises(paramiko.SSHException):
            terminal.get_pty()
        subsystem = transport.open_session(timeout=30)
        with pytest.raises(paramiko.SSHException):
            subsystem.invoke_subsystem("sftp")
        with pytest.raises(paramiko.ChannelException):
            transport.open_channel("direct-tcpip", ("127.0.0.1", endpoint.port), ("127.0.0.1", 1), timeout=30)
        with pytest.raises(paramiko.SSHException):
            transport.request_port_forward("127.0.0.1", 0)


def test_a_port_where_nobody_listens_is_told(endpoint: SshEndpoint, keys: Keys) -> None:
    refused = refusal(endpoint, keys.identity)
    assert (refused.reason, refused.retryable) == (reasons.SSH_UNREACHABLE, True)
    assert "127.0.0.1 port 1 does not answer: Connection refused" in str(refused)


def test_a_host_that_says_nothing_is_given_up(endpoint: SshEndpoint, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "BANNER_SECONDS", 0.2)
    with listening(until_closed) as port:
        assert refusal(dataclasses.replace(endpoint, port=port), keys.identity).reason == reasons.SSH_UNREACHABLE


def test_a_host_that_tells_its_version_and_nothing_more_is_given_up(
    endpoint: SshEndpoint, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "BANNER_SECONDS", 0.2)

    def version(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        until_closed(connection)

    with listening(version) as port:
        assert refusal(dataclasses.replace(endpoint, port=port), keys.identity).reason == reasons.SSH_UNREACHABLE


def test_what_is_no_sshd_is_told(endpoint: SshEndpoint, keys: Keys) -> None:
    with listening(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200)) as port:
        assert refusal(dataclasses.replace(endpoint, port=port), keys.identity).reason == reasons.SSH_UNREACHABLE


class Mute(paramiko.ServerInterface):
    """Lets everybody in and opens sessions; answers to no command until it is told to."""

    def __init__(self, hold: threading.Event, *, silent_at: str) -> None:
        self._hold = hold
        self._silent_at = silent_at

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if self._silent_at == "auth":
            self._hold.wait(30)
        return paramiko.common.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if self._silent_at == "channel":
            self._hold.wait(30)
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._hold.wait(30)
        return True


@contextmanager
def mute(keys: Keys, silent_at: str) -> Iterator[int]:
    """A host with the pinned key that falls silent at a step; its port."""
    hold = threading.Event()

    def serve(connection: socket.socket) -> None:
        server = paramiko.Transport(connection)
        server.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(keys.host_key)))
        server.start_server(event=threading.Event(), server=Mute(hold, silent_at=silent_at))
        hold.wait(30)
        server.close()

    with listening(serve) as port:
        yield port
        hold.set()


def test_an_sshd_that_does_not_answer_to_the_key_is_given_up(endpoint: SshEndpoint, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "AUTH_SECONDS", 0.2)
    with mute(keys, "auth") as port:
        assert refusal(dataclasses.replace(endpoint, port=port), keys.identity).reason == reasons.SSH_AUTHENTICATION_FAILED


@pytest.mark.parametrize("silent_at", ["channel", "exec"])
def test_an_sshd_that_begins_no_command_is_given_up(
    silent_at: str, endpoint: SshEndpoint, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "CHANNEL_SECONDS", 0.2)
    with (
        mute(keys, silent_at) as port,
        connect(dataclasses.replace(endpoint, port=port), keys.identity) as transport,
        pytest.raises(TransferError, match="did not begin receive") as refused,
        run(transport, "receive"),
    ):
        pytest.fail("begun")
    assert refused.value.reason == reasons.TRANSFER_BROKEN


def test_a_connection_that_ends_just_before_the_command_is_asked_for_is_given_up(reached: Reached, monkeypatch: pytest.MonkeyPatch) -> None:
    """paramiko has forgotten the end by the time that it waits for the answer."""
    _, _, endpoint, keys = reached
    forget = paramiko.Channel._event_pending  # type: ignore[attr-defined]

    def ends(channel: paramiko.Channel) -> None:
        channel.get_transport().close()
        forget(channel)

    monkeypatch.setattr(ssh, "CHANNEL_SECONDS", 0.2)
    with connect(endpoint, keys.identity) as transport:
        monkeypatch.setattr(paramiko.Channel, "_event_pending", ends)
        with pytest.raises(TransferError, match="did not begin receive within 0 s") as refused, run(transport, "receive"):
            pytest.fail("begun")
    assert refused.value.reason == reasons.TRANSFER_BROKEN


def test_what_went_wrong_is_told_although_the_line_can_not_be_closed_any_more(reached: Reached, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, endpoint, keys = reached

    def breaks(_: paramiko.Channel) -> None:
        raise EOFError

    def fail(transport: paramiko.Transport) -> None:
        with monkeypatch.context() as patch, run(transport, "receive"):
            patch.setattr(paramiko.Channel, "close", breaks)
            raise TransferError(reasons.TRANSFER_BROKEN, "the reason")

    with connect(endpoint, keys.identity) as transport, pytest.raises(TransferError, match="the reason"):
        fail(transport)


def test_a_private_key_that_can_not_be_read_is_told(endpoint: SshEndpoint, keys: Keys, tmp_path: Path) -> None:
    with mute(keys, "exec") as port:
        refused = refusal(dataclasses.replace(endpoint, port=port), tmp_path / "none")
    assert refused.reason == reasons.SSH_AUTHENTICATION_FAILED
    assert "No such file" in str(refused)


def test_a_host_that_has_another_type_of_key_only_is_not_reached(endpoint: SshEndpoint, keys: Keys) -> None:
    def serve(connection: socket.socket) -> None:
        server = paramiko.Transport(connection)
        server.add_server_key(paramiko.ECDSAKey.generate())
        ended = threading.Event()
        server.start_server(event=ended, server=Mute(threading.Event(), silent_at="exec"))
        server.join(30)

    with listening(serve) as port:
        assert refusal(dataclasses.replace(endpoint, port=port), keys.identity).reason == reasons.SSH_UNREACHABLE
