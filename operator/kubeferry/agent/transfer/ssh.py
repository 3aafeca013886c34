"""A line to the agent of another node: SSH with pinned host keys, no prompt, and a deadline on every wait."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import paramiko

from kubeferry.agent.transfer.attempt import Dial
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.keys import key_blob
from kubeferry.agent.transfer.wire import Frame, FrameType, broken, read_frame
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint

CONNECT_SECONDS = 10.0
BANNER_SECONDS = 10.0
"""Until sshd has told its version; as much again is given until the keys are agreed on."""
AUTH_SECONDS = 15.0
CHANNEL_SECONDS = 15.0
"""Until a channel is open; as much again is given until sshd has begun the command."""
SILENCE_SECONDS = 60.0
"""Without a byte from the other agent, or without one that it takes."""
LAST_SECONDS = 10.0
"""For the reason of an agent that has ended the data."""

USER = "root"
"""Whom sshd lets in, to the one forced command."""

_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")
"""In the order of preference; paramiko's own list begins with its slowest and has ciphers of the last century."""
_STDERR_LIMIT = 2048

_BREAKS = (OSError, EOFError, paramiko.SSHException)
"""What paramiko raises when a connection is no more."""


@contextmanager
def connect(endpoint: SshEndpoint, identity: Path, dial: Dial = socket.create_connection) -> Iterator[paramiko.Transport]:
    """A connection to the sshd of another node, as its agent told of it in its ComputeNode.

    Only the identity key is offered, only to a host that has proved to have the pinned key, and nobody is asked for anything.

    Args:
        endpoint: where it is, and the host key that it must prove to have.
        identity: path of this host's private key.
        dial: makes the TCP connection.

    Raises:
        TransferError: `SSHUnreachable`, `SSHHostKeyMismatch`, `SSHAuthenticationFailed`.
    """
    transport = paramiko.Transport(_dialed(endpoint, dial))
    try:
        _negotiate(transport, endpoint)
        _authenticate(transport, endpoint, identity)
        yield transport
    finally:
        transport.close()


class Line:
    """A command that runs at the other agent: frames both ways. Each method may raise `TransferBroken`."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def send(self, frame: bytes) -> None:
        """Send one frame.

        Raises:
            TransferError: `TransferBroken`: the line ended, or nothing was taken for `SILENCE_SECONDS`.
        """
        try:
            self._channel.settimeout(SILENCE_SECONDS)
            self._channel.sendall(frame)
        except TimeoutError as error:
            raise broken(f"the other agent took nothing for {SILENCE_SECONDS:.0f} s; see its log, and the load of its disks") from error
        except _BREAKS as error:
            raise broken(
                f"the line to the other agent broke: {error or type(error).__name__}; see the logs of its agent and sshd"
            ) from error

    def receive(self) -> Frame:
        """The next frame.

        Raises:
            TransferError: `TransferBroken`: the line ended, what came is no frame, or nothing came for `SILENCE_SECONDS`.
        """
        return read_frame(partial(self._read, SILENCE_SECONDS))

    def last_frame(self) -> Frame:
        """What the other agent says where it is known to have given up: as `receive`, but it is not waited for long."""
        while (got := read_frame(partial(self._read, LAST_SECONDS))).type == FrameType.ALIVE:
            pass
        return got

    def _read(self, silence: float, count: int) -> bytes:
        got = bytearray()
        while len(got) < count:
            try:
                self._channel.settimeout(silence)
                more = self._channel.recv(count - len(got))
            except TimeoutError as error:
                raise broken(f"the other agent said nothing for {silence:.0f} s; see its log, and the load of its disks") from error
            except _BREAKS as error:
                raise broken(
                    f"the line to the other agent broke: {error or type(error).__name__}; see the logs of its agent and sshd"
                ) from error
            if not more:
                raise broken(f"the other agent ended the line without an answer{self._last_words()}")
            got += more
        return bytes(got)

    def _last_words(self) -> str:
        """What the forced command said on its standard error, if it did."""
        try:
            said = self._channel.recv_stderr(_STDERR_LIMIT).decode(errors="replace").strip()
        except _BREAKS:
            said = ""
        return f": {said}" if said else "; see the logs of its agent and sshd"


@contextmanager
def run(transport: paramiko.Transport, command: str) -> Iterator[Line]:
    """Run a command of the vocabulary at the other agent.

    Raises:
        TransferError: `TransferBroken`: sshd opens no channel, or begins no command.
    """
    try:
        channel = transport.open_session(timeout=CHANNEL_SECONDS)
        # paramiko waits for the answer to this without a deadline.
        alarm = threading.Timer(CHANNEL_SECONDS, _give_up, (transport, channel))
        alarm.daemon = True
        alarm.start()
        try:
            channel.exec_command(command)
        finally:
            alarm.cancel()
    except _BREAKS as error:
        seen = str(error) or type(error).__name__
        raise broken(f"sshd did not begin {command} within {CHANNEL_SECONDS:.0f} s: {seen}; see its log on the other node") from error
    try:
        yield Line(channel)
    finally:
        with suppress(*_BREAKS):  # with the connection the channel is gone, too
            channel.close()


def _give_up(transport: paramiko.Transport, channel: paramiko.Channel) -> None:
    transport.close()
    channel.event.set()  # a connection that had ended just before the wait for the answer began does not end it by itself


def _dialed(endpoint: SshEndpoint, dial: Dial) -> socket.socket:
    try:
        connection = dial((endpoint.address, endpoint.port), CONNECT_SECONDS)
    except OSError as error:
        raise _unreachable(endpoint, f"does not answer: {error.strerror or error}") from error
    # A peer that is gone, or whose process takes nothing any more: the kernel ends what paramiko would wait for.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE_SECONDS * 1000))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _negotiate(transport: paramiko.Transport, endpoint: SshEndpoint) -> None:
    """Agree on keys, and check that the host is the one that is meant, before anything is told to it."""
    transport.banner_timeout = BANNER_SECONDS
    transport.handshake_timeout = BANNER_SECONDS
    transport.auth_timeout = AUTH_SECONDS
    options = transport.get_security_options()
    options.key_types = ("ssh-ed25519",)
    options.ciphers = _CIPHERS
    try:
        transport.start_client(timeout=2 * BANNER_SECONDS)
        # Raises where the time was over: start_client just returns then.
        seen = transport.get_remote_server_key().asbytes()
    except _BREAKS as error:
        raise _unreachable(endpoint, f"does not speak SSH as expected: {error or type(error).__name__}") from error
    if seen != key_blob(endpoint.host_key):
        message = (
            f"sshd at {_where(endpoint)} has another host key than the node's ComputeNode tells, {endpoint.host_key}; "
            f"see that no other host has its address, and that its agent's state was not restored from another host"
        )
        raise TransferError(reasons.SSH_HOST_KEY_MISMATCH, message)


def _authenticate(transport: paramiko.Transport, endpoint: SshEndpoint, identity: Path) -> None:
    try:
        key = paramiko.Ed25519Key.from_private_key_file(os.fspath(identity))
        rest = transport.auth_publickey(USER, key)
    except _BREAKS as error:
        raise _not_let_in(endpoint, str(error) or type(error).__name__) from error
    if rest:
        raise _not_let_in(endpoint, f"it wants {', '.join(rest)} beyond")


def _unreachable(endpoint: SshEndpoint, seen: str) -> TransferError:
    message = f"sshd at {_where(endpoint)} {seen}; see that it runs beside the node's agent, and that hypervisors reach each other's port"
    return TransferError(reasons.SSH_UNREACHABLE, message, retryable=True)


def _not_let_in(endpoint: SshEndpoint, seen: str) -> TransferError:
    message = (
        f"sshd at {_where(endpoint)} does not take this agent's key: {seen}; the other agent lets in what it has read of this node's "
        f"ComputeNode: see its log, and that no other node has the same key"
    )
    return TransferError(reasons.SSH_AUTHENTICATION_FAILED, message, retryable=True)


def _where(endpoint: SshEndpoint) -> str:
    return f"{endpoint.address} port {endpoint.port}"
