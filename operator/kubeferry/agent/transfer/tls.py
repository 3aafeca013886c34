"""The data's own connection: TLS 1.3 between two certificates of one session, each told to the other over SSH beforehand.

No authority vouches for them, and no name is looked at: each side takes exactly the other's certificate, and the receiver takes a
token once. A key is made for one session, and is never on a disk.
"""

import errno
import hmac
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kubeferry.agent.transfer.attempt import Dial
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.wire import DataPort, Frame, FrameType, Opening, broken, frame, message, parse, read_frame
from kubeferry.api import reasons
from kubeferry.api.model import model

CONNECT_SECONDS = 10.0
"""Until the receiver's kernel answers."""
OPENING_SECONDS = 30.0
"""Until the receiver has taken the token: its process may just be starting, on a host that is busy."""
ACCEPT_SECONDS = 30.0
"""For the right sender to come."""
HANDSHAKE_SECONDS = 10.0
"""For one that has come to prove who it is."""
AT_ONCE = 16
"""Connections that may be at that at a time: for one more, the one that is at it for the longest is sent away."""
SILENCE_SECONDS = 60.0
"""Without a byte from the other side, or without one that it takes."""

log = structlog.get_logger(__name__)

_FOR_EVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""No end, as RFC 5280 (4.1.2.5) puts it: two hosts' clocks need not agree on one."""
_BACKLOG = 64
"""Strangers may come before the receiver's process takes the first: the sender must not be turned away for them."""


@model
class Identity:
    """Key and certificate of one side of one session, in PEM."""

    key: str
    certificate: str


def make_identity() -> Identity:
    """A new one."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubeferry data")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(_FOR_EVER)
        .sign(key, None)
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(key=pem.decode(), certificate=certificate.public_bytes(Encoding.PEM).decode())


def make_token() -> str:
    """A new one-time token."""
    return secrets.token_hex(16)


def listen(address: str, ports: range) -> socket.socket:
    """A socket that listens on a free one of those ports.

    Raises:
        TransferError: `DataPortsBusy`: none is free. `DataPortUnreachable`: this host does not have that address, say.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in ports:
        try:
            return socket.create_server((address, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                text = (
                    f"can't listen on {address} port {port}: {os.strerror(error.errno or 0)}; see that this host has its migrationAddress"
                )
                raise TransferError(reasons.DATA_PORT_UNREACHABLE, text, retryable=True) from error
    text = f"every data port of {address}, {ports[0]} to {ports[-1]}, is in use by another copy; allow more, or migrate fewer at a time"
    raise TransferError(reasons.DATA_PORTS_BUSY, text, retryable=True)


class Stream:
    """A data connection: frames both ways. Each method may raise `TransferBroken`."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection

    def send(self, content: bytes | memoryview) -> None:
        """Send a frame, or a part of one."""
        with _telling(self._connection, "took nothing"):
            self._connection.sendall(content)

    def receive(self) -> Frame:
        """The next frame."""
        return read_frame(self._read)

    def receive_news(self) -> Frame:
        """The next frame that is no sign of life."""
        while (got := self.receive()).type == FrameType.ALIVE:
            pass
        return got

    def _read(self, count: int) -> bytes:
        got = bytearray(count)
        view, have = memoryview(got), 0
        while have < count:
            with _telling(self._connection, "said nothing"):
                more = self._connection.recv_into(view[have:])
            if not more:
                raise broken("the other side ended the data stream; see its agent's log")
            have += more
        return bytes(got)


@contextmanager
def connect(address: str, to: DataPort, own: Identity, dial: Dial = socket.create_connection) -> Iterator[Stream]:
    """A data connection to a receiver, which has taken the token.

    Args:
        address: of the receiver's host.
        to: its data port.
        own: of this side.
        dial: makes the TCP connection.

    Raises:
        TransferError: `DataPortUnreachable`.
    """
    try:
        plain = dial((address, to.port), CONNECT_SECONDS)
    except OSError as error:
        raise unreachable(address, to, error) from error
    with plain:
        try:
            connection = _secured(plain, ssl.PROTOCOL_TLS_CLIENT, own, to.certificate, OPENING_SECONDS)
        except OSError as error:
            raise unreachable(address, to, error) from error
        with connection:
            stream = Stream(connection)
            try:
                connection.settimeout(OPENING_SECONDS)
                stream.send(message(Opening(token=to.token)))
                _expect_go(stream.receive())
            except TransferError as error:
                raise unreachable(address, to, error) from error
            connection.settimeout(SILENCE_SECONDS)
            yield stream


def unreachable(address: str, to: DataPort, seen: Exception) -> TransferError:
    """What is raised when no data can be sent to where it should."""
    text = (
        f"data can't be sent to {address} port {to.port}: {seen}; see that hypervisors reach each other's data ports "
        f"(the agent's dataPorts), and the log of the other agent"
    )
    return TransferError(reasons.DATA_PORT_UNREACHABLE, text, retryable=True)


@contextmanager
def accept(listener: socket.socket, own: Identity, peer: str, token: str) -> Iterator[Stream]:
    """The data connection of the one sender that has the certificate and the token; whoever else comes is sent away.

    Args:
        listener: listens; it is closed when the sender has come, or is late.
        own: of this side.
        peer: the sender's certificate.
        token: that it must tell.

    Raises:
        TransferError: `DataPortUnreachable`: it has not come within `ACCEPT_SECONDS`.
    """
    with listener:
        connection = _Door(listener, own, peer, token).sender()
    with connection:
        yield Stream(connection)


class _Door:
    """Lets the one sender in. Whoever comes proves who it is in a thread of its own: a stranger that says nothing holds up nobody."""

    def __init__(self, listener: socket.socket, own: Identity, peer: str, token: str) -> None:
        self._listener = listener
        self._own = own
        self._peer = peer
        self._token = token
        self._lock = threading.Lock()
        self._waiting: list[socket.socket] = []  # duplicates of who is at it, to end each by; the oldest first
        self._sender: ssl.SSLSocket | None = None
        self._is_shut = False

    def sender(self) -> ssl.SSLSocket:
        """The sender's connection; everybody else is sent away. Raises as of `accept`."""
        deadline = time.monotonic() + ACCEPT_SECONDS
        try:
            while True:
                self._listener.settimeout(max(deadline - time.monotonic(), 0.001))
                self._take(self._listener.accept()[0])
        except OSError as error:  # a time-out is one; shut down by another thread, ours of the sender's for one, is another
            with self._lock:
                self._is_shut = True
                self._send_away(all_but=0)
                if self._sender is not None:
                    return self._sender
            text = f"no sender came to this host's data port within {ACCEPT_SECONDS:.0f} s; see that hypervisors reach each other's"
            raise TransferError(reasons.DATA_PORT_UNREACHABLE, text, retryable=True) from error

    def _take(self, plain: socket.socket) -> None:
        duplicate = plain.dup()
        with self._lock:
            self._send_away(all_but=AT_ONCE - 1)
            self._waiting.append(duplicate)
        prove = partial(copy_context().run, self._admit, plain, duplicate)  # what is logged names what this is about
        threading.Thread(target=prove, name="data-door", daemon=True).start()

    def _send_away(self, *, all_but: int) -> None:
        while len(self._waiting) > all_but:
            with suppress(OSError):  # it has gone by itself
                self._waiting.pop(0).shutdown(socket.SHUT_RDWR)  # its thread closes it

    def _admit(self, plain: socket.socket, duplicate: socket.socket) -> None:
        """Let it in, if it is the sender; else it is closed."""
        connection = None
        try:
            connection = _secured(plain, ssl.PROTOCOL_TLS_SERVER, self._own, self._peer, HANDSHAKE_SECONDS)
            stream = Stream(connection)
            connection.settimeout(HANDSHAKE_SECONDS)
            told = parse(Opening, stream.receive()).token
            if not hmac.compare_digest(told.encode(), self._token.encode()):
                raise broken("the token is another")
            self._let_in(connection, duplicate)
        except (OSError, TransferError) as error:
            log.warning("connection to the data port refused", error=str(error))
            (connection or plain).close()
        finally:
            with self._lock, duplicate:
                if duplicate in self._waiting:
                    self._waiting.remove(duplicate)

    def _let_in(self, connection: ssl.SSLSocket, duplicate: socket.socket) -> None:
        """The token is taken once: by who comes first."""
        with self._lock:
            if self._is_shut or self._sender is not None:
                raise broken("the sender is in already, or its time is over")
            Stream(connection).send(frame(FrameType.GO))
            connection.settimeout(SILENCE_SECONDS)
            self._sender = connection
            if duplicate in self._waiting:
                self._waiting.remove(duplicate)
            with suppress(OSError):  # shut down already, by who gives the sender up
                self._listener.shutdown(socket.SHUT_RDWR)  # ends the wait for others


def _secured(plain: socket.socket, protocol: int, own: Identity, peer: str, seconds: float) -> ssl.SSLSocket:
    """TLS 1.3 over a connection, to the one that has the key of the peer's certificate; raises `OSError`."""
    plain.settimeout(seconds)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE_SECONDS * 1000))
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=peer)
    _load(context, own)
    return context.wrap_socket(plain, server_side=protocol == ssl.PROTOCOL_TLS_SERVER)


def _load(context: ssl.SSLContext, own: Identity) -> None:
    """Through memory: `ssl` takes keys from files only."""
    fd = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(fd, (own.key + own.certificate).encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _expect_go(got: Frame) -> None:
    if got.type != FrameType.GO:
        raise broken(f"a frame of type {got.type.name} came, GO was expected")


@contextmanager
def _telling(connection: ssl.SSLSocket, silence: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        waited = f"{connection.gettimeout() or 0:.0f} s"
        raise broken(f"the other side {silence} for {waited}; see its agent's log, and the load of its disks") from error
    except OSError as error:
        raise broken(f"the data stream broke: {error}; see the other agent's log") from error
