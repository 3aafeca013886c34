"""What becomes of looks at a file system that hangs. (Who is told what: `test_prober`, `test_preflight`.)"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubeferry.agent.storage import looks as looks_module
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.looks import THREADS, Looks
from kubeferry.api import reasons


@pytest.fixture
def looks() -> Looks:
    return Looks(Path("/instances"), "test-look")


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """When set, the file system answers again."""
    event = threading.Event()
    yield event
    event.set()


def soon() -> float:
    return 0.1


def test_what_a_look_finds_or_fails_with_is_passed_on(looks: Looks) -> None:
    assert looks.call(lambda: "found") == "found"
    with pytest.raises(ZeroDivisionError):
        looks.call(lambda: 1 // 0)


def test_nobody_waits_longer_than_a_look_may_take_or_than_what_is_left_of_their_time(
    looks: Looks, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match="/instances does not answer within 0 s") as silent:
        looks.call(released.wait, soon)
    assert (silent.value.reason, silent.value.retryable) == (reasons.STORAGE_ERROR, True)
    monkeypatch.setattr(looks_module, "LOOK_SECONDS", 0.1)
    with pytest.raises(StorageError, match="does not answer within 0 s"):
        looks.call(released.wait)


def test_a_look_that_was_given_up_before_it_began_is_never_done(looks: Looks, released: threading.Event) -> None:
    done: list[str] = []

    @contextmanager
    def context() -> Iterator[None]:
        done.append("entered")
        yield

    for _ in range(THREADS):
        looks.begin(released.wait)
    with pytest.raises(StorageError):
        looks.call(lambda: done.append("looked"), soon)
    with pytest.raises(StorageError), looks.held(context(), soon):
        pytest.fail("entered")
    released.set()
    looks._threads.shutdown()
    assert done == []


def test_what_went_wrong_first_is_told_although_leaving_fails_too(looks: Looks) -> None:
    @contextmanager
    def context() -> Iterator[None]:
        try:
            yield
        finally:
            raise StorageError(reasons.STORAGE_ERROR, "can't be removed")

    def fail() -> None:
        with looks.held(context()):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(StorageError, match="can't be removed"), looks.held(context()):
        pass
