"""How what a thread tries at another host is ended from outside."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kubeferry.agent.transfer.attempt import Attempt

SECONDS = 10.0
"""More than anything here takes."""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS)
        yield server


def test_whoever_waits_for_the_other_host_at_the_end_waits_no_more(listener: socket.socket, threads: ThreadPoolExecutor) -> None:
    with Attempt(60) as attempt, attempt.dial(listener.getsockname(), SECONDS) as connection:
        waiting = threads.submit(connection.recv, 1)
        attempt.end()
        assert waiting.result(SECONDS) == b""
        assert attempt.is_over


def test_a_connection_that_is_made_as_the_attempt_is_ended_is_broken(listener: socket.socket) -> None:
    with Attempt(60) as attempt:
        attempt.end()
        with attempt.dial(listener.getsockname(), SECONDS) as connection:
            assert connection.recv(1) == b""


def test_nothing_is_waited_for_longer_than_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def dial(_: tuple[str, int], timeout: float) -> socket.socket:
        waits.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", dial)
    for seconds, timeout in [(60.0, 10.0), (5.0, 10.0), (0.0, 10.0)]:
        attempt = Attempt(seconds)
        assert 0 <= attempt.rest() <= seconds
        with pytest.raises(TimeoutError):
            attempt.dial(("127.0.0.1", 1), timeout)
    assert waits[0] == 10
    assert 4 < waits[1] <= 5
    assert 0 < waits[2] < 0.1


def test_an_attempt_that_was_ended_has_no_time_left() -> None:
    attempt = Attempt(60)
    assert attempt.rest() > 50
    attempt.end()
    assert attempt.rest() == 0


def test_at_its_end_nothing_holds_a_connection_open_but_who_uses_it(listener: socket.socket) -> None:
    with Attempt(60) as attempt:
        connection = attempt.dial(listener.getsockname(), SECONDS)
        there, _ = listener.accept()
    with there:
        there.sendall(b"still open")
        assert connection.recv(100) == b"still open"
        connection.close()
        there.settimeout(SECONDS)
        assert there.recv(1) == b""
    attempt.end()  # as late as may be, and no matter
