"""Who is let in to a data connection."""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import pytest
from data_ends import ADDRESS, SECONDS, Ends, ends
from pydantic import ValidationError

from kubeferry.agent.transfer import tls
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.tls import Identity, Stream, accept, connect, make_identity, make_token
from kubeferry.agent.transfer.wire import DataPort, Frame, FrameType, Opening, frame, message, parse
from kubeferry.api import reasons


def echo(ends: Ends) -> list[FrameType]:
    """Be a receiver: send back whatever comes, until the end; what came."""
    came = []
    with accept(ends.listener, ends.receiver, ends.sender.certificate, ends.token) as stream:
        while True:
            got = stream.receive()
            came.append(got.type)
            stream.send(frame(got.type, got.payload))
            if got.type == FrameType.END:
                return came


def echoed(data: DataPort, sender: Identity) -> None:
    """Be the right sender, and see that frames pass both ways."""
    with connect(ADDRESS, data, sender) as stream:
        for kind, payload in [(FrameType.MESSAGE, b"{}"), (FrameType.CHUNK, os.urandom(4 << 20)), (FrameType.END, b"last")]:
            stream.send(frame(kind, payload))
            got = stream.receive()
            assert (got.type, got.payload) == (kind, payload)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits longer than a moment for a handshake or a token."""
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.5)


def test_with_the_right_certificates_and_token_frames_pass_both_ways(threads: ThreadPoolExecutor) -> None:
    with ends() as two:
        receiving = threads.submit(echo, two)
        echoed(two.data, two.sender)
        assert receiving.result(SECONDS) == [FrameType.MESSAGE, FrameType.CHUNK, FrameType.END]
        assert two.listener.fileno() == -1


def test_the_connection_is_tls_1_3(threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = []
    init = Stream.__init__

    def noted(stream: Stream, connection: ssl.SSLSocket) -> None:
        versions.append(connection.version())
        init(stream, connection)

    monkeypatch.setattr(Stream, "__init__", noted)
    with ends() as two:
        receiving = threads.submit(echo, two)
        echoed(two.data, two.sender)
        receiving.result(SECONDS)
    assert set(versions) == {"TLSv1.3"}


# Whoever is not to be let in.


def other_key(ends: Ends) -> None:
    with connect(ADDRESS, ends.data, make_identity()):
        pass


def other_key_with_the_right_certificate(ends: Ends) -> None:
    """As one who has seen the certificate, which is no secret, would try."""
    with connect(ADDRESS, ends.data, replace(ends.sender, key=make_identity().key)):
        pass


def other_token(ends: Ends) -> None:
    with connect(ADDRESS, replace(ends.data, token=make_token()), ends.sender):
        pass


def other_server(ends: Ends) -> None:
    """The sender finds another than the receiver that it was told of: it sends nothing."""
    with connect(ADDRESS, replace(ends.data, certificate=make_identity().certificate), ends.sender):
        pass


def no_certificate(ends: Ends) -> None:
    with plain(ends) as connection:
        context = client_context(ends)
        with context.wrap_socket(connection) as secured:
            secured.sendall(message(Opening(token=ends.token)))
            refused(secured)


def old_tls(ends: Ends) -> None:
    with plain(ends) as connection:
        context = client_context(ends)
        tls._load(context, ends.sender)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.wrap_socket(connection)


def plain_text(ends: Ends) -> None:
    with plain(ends) as connection:
        connection.sendall(message(Opening(token=ends.token)) * 2)
        refused(connection)


def silent_at_first(ends: Ends) -> None:
    with plain(ends) as connection:
        refused(connection)


def silent_in_tls(ends: Ends) -> None:
    with secured(ends) as connection:
        refused(connection)


def no_token(ends: Ends) -> None:
    with secured(ends) as connection:
        connection.sendall(frame(FrameType.GO))
        refused(connection)


def no_frame(ends: Ends) -> None:
    with secured(ends) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        refused(connection)


def leaves(ends: Ends) -> None:
    with plain(ends):
        pass
    raise ConnectionError


INTRUDERS: list[Callable[[Ends], None]] = [
    other_key,
    other_key_with_the_right_certificate,
    other_token,
    other_server,
    no_certificate,
    old_tls,
    plain_text,
    silent_at_first,
    silent_in_tls,
    no_token,
    no_frame,
    leaves,
]


def plain(ends: Ends) -> socket.socket:
    return socket.create_connection((ADDRESS, ends.port), timeout=SECONDS)


def client_context(ends: Ends) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=ends.receiver.certificate)
    return context


@contextmanager
def secured(ends: Ends) -> Iterator[ssl.SSLSocket]:
    """The right certificate, and nothing said yet."""
    with plain(ends) as connection:
        context = client_context(ends)
        tls._load(context, ends.sender)
        with context.wrap_socket(connection) as made:
            yield made


def refused(connection: socket.socket) -> None:
    """See that the receiver ends it, and does not say GO."""
    try:
        while more := connection.recv(4096):
            assert not more.startswith(frame(FrameType.GO))
    except TimeoutError:
        raise AssertionError("it was left to wait") from None
    raise ConnectionError("ended")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("intrude", INTRUDERS)
def test_who_is_not_the_sender_is_refused_and_the_sender_let_in_afterwards(
    intrude: Callable[[Ends], None], threads: ThreadPoolExecutor
) -> None:
    with ends() as two:
        data = two.data
        receiving = threads.submit(echo, two)
        with pytest.raises((OSError, TransferError, ssl.SSLError)):
            intrude(two)
        assert not receiving.done()
        echoed(data, two.sender)
        assert len(receiving.result(SECONDS)) == 3


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("intrude", [other_key, other_token, other_server])
def test_a_sender_that_is_refused_is_told_that_it_can_send_no_data(intrude: Callable[[Ends], None], threads: ThreadPoolExecutor) -> None:
    with ends() as two:
        data = two.data
        receiving = threads.submit(echo, two)
        with pytest.raises(TransferError, match=f"data can't be sent to {ADDRESS} port {two.port}: ") as refusal:
            intrude(two)
        assert (refusal.value.reason, refusal.value.retryable) == (reasons.DATA_PORT_UNREACHABLE, True)
        echoed(data, two.sender)
        receiving.result(SECONDS)


def test_the_token_is_taken_once(threads: ThreadPoolExecutor) -> None:
    with ends() as two:
        data = two.data
        receiving = threads.submit(echo, two)
        echoed(data, two.sender)
        receiving.result(SECONDS)
        with pytest.raises(TransferError) as refusal, connect(ADDRESS, data, two.sender):
            pass
        assert refusal.value.reason == reasons.DATA_PORT_UNREACHABLE


def test_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "ACCEPT_SECONDS", 0.2)
    with ends() as two:
        with pytest.raises(TransferError, match="no sender came to this host's data port within 0 s") as refusal:
            echo(two)
        assert (refusal.value.reason, refusal.value.retryable) == (reasons.DATA_PORT_UNREACHABLE, True)
        assert two.listener.fileno() == -1


@pytest.mark.usefixtures("impatient")
def test_who_is_refused_again_and_again_does_not_put_off_the_end(threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "ACCEPT_SECONDS", 1.0)
    with ends() as two:
        receiving = threads.submit(echo, two)
        with suppress(OSError):  # the port is closed at last
            for _ in range(1000):
                if receiving.done():
                    break
                plain(two).close()
        with pytest.raises(TransferError) as refusal:
            receiving.result(SECONDS)
        assert refusal.value.reason == reasons.DATA_PORT_UNREACHABLE


def nobody_waits_at_the_door() -> bool:
    for thread in threading.enumerate():
        if thread.name == "data-door":
            thread.join(SECONDS)
            if thread.is_alive():
                return False
    return True


@pytest.mark.parametrize("strangers", [8, 100])
def test_the_sender_gets_in_in_its_time_with_silent_strangers_before_it(
    strangers: int, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may be silent for a third of the time that the sender has, as with the real times."""
    for name, seconds in [("ACCEPT_SECONDS", 6.0), ("OPENING_SECONDS", 6.0), ("HANDSHAKE_SECONDS", 2.0)]:
        monkeypatch.setattr(tls, name, seconds)
    with ends() as two, ExitStack() as stack:
        data = two.data
        receiving = threads.submit(echo, two)
        for _ in range(strangers):
            stack.enter_context(plain(two))
        echoed(data, two.sender)
        assert len(receiving.result(SECONDS)) == 3


def test_strangers_beyond_the_bound_have_the_oldest_sent_away(threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 60.0)
    with ends() as two, ExitStack() as stack:
        data = two.data
        receiving = threads.submit(echo, two)
        oldest, *others = [stack.enter_context(plain(two)) for _ in range(tls.AT_ONCE + 1)]
        with pytest.raises(ConnectionError):
            refused(oldest)
        for other in others:
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.recv(1)
        echoed(data, two.sender)
        receiving.result(SECONDS)
        for other in others:
            other.settimeout(SECONDS)
            with pytest.raises(ConnectionError):
                refused(other)
        assert nobody_waits_at_the_door()


def test_of_two_that_tell_the_token_at_once_one_gets_in(threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=SECONDS)

    def told_at_once(kind: type[Opening], got: Frame) -> Opening:
        both.wait()
        return parse(kind, got)

    def come(data: DataPort, sender: Identity) -> str:
        try:
            with connect(ADDRESS, data, sender) as stream:
                with suppress(TransferError):
                    stream.send(frame(FrameType.END))
                    stream.receive()
                return "in"
        except TransferError:
            return "refused"

    monkeypatch.setattr(tls, "parse", told_at_once)
    with ends() as two:
        data = two.data
        receiving = threads.submit(echo, two)
        coming = [threads.submit(come, data, two.sender) for _ in range(2)]
        assert sorted(one.result(SECONDS) for one in coming) == ["in", "refused"]
        assert receiving.result(SECONDS) == [FrameType.END]


def test_a_closed_port_is_told_with_its_address(threads: ThreadPoolExecutor) -> None:
    with ends() as two:
        data = two.data
    with (
        pytest.raises(TransferError, match=f"{ADDRESS} port {data.port}: .*Connection refused") as refusal,
        connect(ADDRESS, data, make_identity()),
    ):
        pass
    assert (refusal.value.reason, refusal.value.retryable) == (reasons.DATA_PORT_UNREACHABLE, True)


def test_what_is_no_certificate_is_told_as_unreachable() -> None:
    with ends() as two:
        data = replace(two.data, certificate="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        with pytest.raises(TransferError) as refusal, connect(ADDRESS, data, two.sender):
            pass
        assert refusal.value.reason == reasons.DATA_PORT_UNREACHABLE


@pytest.mark.parametrize("certificate", ["", "é"])
def test_what_no_certificate_can_be_is_no_data_port(certificate: str) -> None:
    """The TLS library takes these for a defect of its caller."""
    with ends() as two, pytest.raises(ValidationError):
        replace(two.data, certificate=certificate)


def test_a_receiver_that_does_not_take_the_token_in_time_is_told_with_the_time_that_it_had(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "OPENING_SECONDS", 1.0)
    with ends() as two, ExitStack() as held:

        def be_silent() -> None:
            connection, _ = two.listener.accept()
            held.enter_context(tls._secured(connection, ssl.PROTOCOL_TLS_SERVER, two.receiver, two.sender.certificate, SECONDS))

        receiving = threads.submit(be_silent)
        with pytest.raises(TransferError, match="said nothing for 1 s") as refusal, connect(ADDRESS, two.data, two.sender):
            pass
        receiving.result(SECONDS)
        assert refusal.value.reason == reasons.DATA_PORT_UNREACHABLE
