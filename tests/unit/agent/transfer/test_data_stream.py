"""What may happen to a data connection, and where it may come."""

import os
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from data_ends import ADDRESS, streams

from kubeferry.agent.transfer import tls
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.tls import listen, make_identity, make_token
from kubeferry.agent.transfer.wire import FrameType, frame
from kubeferry.api import reasons


def test_silence_breaks_the_transfer(threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "SILENCE_SECONDS", 0.4)
    with streams(threads) as both:
        for stream in both:
            with pytest.raises(TransferError, match="the other side said nothing for 0 s") as broken:
                stream.receive()
            assert (broken.value.reason, broken.value.retryable) == (reasons.TRANSFER_BROKEN, True)


def test_one_who_takes_nothing_breaks_the_transfer(threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "SILENCE_SECONDS", 0.4)
    with streams(threads) as (_, sender):
        with pytest.raises(TransferError, match="the other side took nothing for 0 s") as broken:
            sender.send(bytes(64 << 20))
        assert broken.value.reason == reasons.TRANSFER_BROKEN


WHOLE = frame(FrameType.MESSAGE, b'{"token": "x"}')


@pytest.mark.parametrize("kept", [0, 1, 4, 5, len(WHOLE) - 1])
def test_an_end_in_the_middle_of_a_frame_breaks_the_transfer(kept: int, threads: ThreadPoolExecutor) -> None:
    with streams(threads) as (receiver, sender):
        sender.send(WHOLE[:kept])
        sender._connection.close()
        with pytest.raises(TransferError, match=r"ended the data stream|data stream broke") as broken:
            receiver.receive()
        assert broken.value.reason == reasons.TRANSFER_BROKEN


def test_what_is_no_frame_breaks_the_transfer(threads: ThreadPoolExecutor) -> None:
    with streams(threads) as (receiver, sender):
        sender.send(b"\xff\x00\x00\x00\x00")
        with pytest.raises(TransferError, match="a frame of type 255 came") as broken:
            receiver.receive()
        assert broken.value.reason == reasons.TRANSFER_BROKEN


def test_a_frame_that_comes_in_pieces_is_put_together(threads: ThreadPoolExecutor) -> None:
    with streams(threads) as (receiver, sender):
        for byte in WHOLE:
            sender.send(bytes([byte]))
        got = receiver.receive()
        assert frame(got.type, got.payload) == WHOLE


def test_signs_of_life_are_no_news(threads: ThreadPoolExecutor) -> None:
    with streams(threads) as (receiver, sender):
        for kind in (FrameType.ALIVE, FrameType.ALIVE, FrameType.GO, FrameType.ALIVE):
            sender.send(frame(kind))
        assert receiver.receive_news().type == FrameType.GO
        assert receiver.receive().type == FrameType.ALIVE


def free_ports(count: int) -> range:
    """Ports of which all are free, or were a moment ago."""
    for first in range(42_000, 60_000, count):
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server((ADDRESS, port)))
            except OSError:
                continue
            return range(first, first + count)
    raise AssertionError("no ports are free")


def test_each_copy_gets_the_next_free_port_and_none_when_all_are_taken() -> None:
    ports = free_ports(3)
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen(ADDRESS, ports)) for _ in range(3)]
        assert [listener.getsockname()[1] for listener in listeners] == list(range(ports[0], ports[-1] + 1))
        with pytest.raises(TransferError, match=f"{ports[0]} to {ports[-1]}, is in use") as refusal:
            listen(ADDRESS, ports)
        assert (refusal.value.reason, refusal.value.retryable) == (reasons.DATA_PORTS_BUSY, True)
        listeners[1].close()
        with listen(ADDRESS, ports) as again:
            assert again.getsockname() == (ADDRESS, ports[0] + 1)


def test_an_ipv6_address_is_listened_at_too() -> None:
    with listen("::1", free_ports(1)) as listener:
        assert listener.family == socket.AF_INET6


def test_an_address_that_this_host_does_not_have_is_told() -> None:
    with pytest.raises(TransferError, match=r"can't listen on 192\.0\.2\.1 port 8023: Cannot assign requested address") as refusal:
        listen("192.0.2.1", range(8023, 8033))
    assert (refusal.value.reason, refusal.value.retryable) == (reasons.DATA_PORT_UNREACHABLE, True)


# Keys.


def test_each_identity_is_new_and_its_certificate_is_of_its_key() -> None:
    one, other = make_identity(), make_identity()
    assert one.key != other.key
    for identity in (one, other):
        key = load_pem_private_key(identity.key.encode(), None)
        assert isinstance(key, Ed25519PrivateKey)
        assert load_pem_x509_certificate(identity.certificate.encode()).public_key() == key.public_key()


def test_each_token_is_new_and_hard_to_guess() -> None:
    tokens = {make_token() for _ in range(100)}
    assert len(tokens) == 100
    assert {len(bytes.fromhex(token)) for token in tokens} == {16}


def test_no_key_is_ever_on_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only file that is opened is one without a name, in memory."""
    opened: list[str] = []
    made: list[int] = []
    memfd = os.memfd_create

    def noted(name: str, flags: int) -> int:
        made.append(memfd(name, flags))
        assert flags & os.MFD_CLOEXEC
        return made[-1]

    load = ssl.SSLContext.load_cert_chain

    def loaded(context: ssl.SSLContext, path: str) -> None:
        opened.append(os.readlink(path))
        load(context, path)

    monkeypatch.setattr(os, "memfd_create", noted)
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", loaded)
    with TemporaryDirectory() as empty, monkeypatch.context() as patched:
        patched.chdir(empty)
        patched.setenv("TMPDIR", empty)
        tls._load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), make_identity())
        assert list(Path(empty).iterdir()) == []
    assert opened == ["/memfd:identity (deleted)"]
    (fd,) = made
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_failed_load_leaves_no_key_open(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    identity = replace(make_identity(), certificate="")
    with pytest.raises(ssl.SSLError):
        tls._load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), identity)
    assert len(os.listdir("/proc/self/fd")) == before
