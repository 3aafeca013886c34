"""How fast a copy may be. Where no thread is needed, waiting only moves the clock."""

import threading
import time
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
from manual_clock import ManualClock

from kubeferry.agent.transfer import throttle as module
from kubeferry.agent.transfer.throttle import BURST_SECONDS, PIECE, Throttle

MIB = 1 << 20
JOIN_SECONDS = 10.0
SLOW = PIECE // 60
"""Bytes a second of a limit that has a piece wait for a minute."""


class Waiting(threading.Condition):
    """A condition that nobody else changes: to wait is to move the clock."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        assert timeout > 0
        self._clock.advance(timeout)
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    clock = ManualClock()
    monkeypatch.setattr(module, "threading", SimpleNamespace(Condition=lambda: Waiting(clock)))
    return clock


def seconds_of(throttle: Throttle, clock: ManualClock, count: int, piece: int = PIECE) -> float:
    """How long so many bytes take."""
    begun = clock.time()
    for start in range(0, count, piece):
        throttle.take(min(piece, count - start))
    return clock.time() - begun


def begun(throttle: Throttle, counts: Iterable[int]) -> threading.Thread:
    """A thread that takes so many bytes, one after the other."""

    def take() -> None:
        for count in counts:
            throttle.take(count)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(JOIN_SECONDS)
    return not thread.is_alive()


def test_without_a_limit_nothing_waits(clock: ManualClock) -> None:
    assert seconds_of(Throttle(None, clock.time), clock, 1000 * MIB) == 0


@pytest.mark.parametrize(
    ("rate", "piece"), [(MIB, 4096), (MIB, PIECE), (MIB, 4 * MIB), (100 * MIB, PIECE), (10_000 * MIB, 16 * MIB)], ids=str
)
def test_over_a_longer_run_the_rate_is_kept(rate: int, piece: int, clock: ManualClock) -> None:
    took = seconds_of(Throttle(rate, clock.time), clock, 20 * rate, piece)
    assert took == pytest.approx(20, abs=piece / rate + 0.01)


def test_a_low_rate_is_kept_too(clock: ManualClock) -> None:
    assert seconds_of(Throttle(1000, clock.time), clock, 100 * PIECE) == pytest.approx(99 * PIECE / 1000, rel=0.001)


def test_work_between_two_pieces_is_no_waste(clock: ManualClock) -> None:
    throttle, start = Throttle(MIB, clock.time), clock.time()
    for _ in range(320):
        throttle.take(PIECE)
        clock.advance(PIECE / MIB * 0.9)
    assert clock.time() - start == pytest.approx(20, abs=0.1)


def test_it_begins_with_nothing_to_spend(clock: ManualClock) -> None:
    throttle, start = Throttle(MIB, clock.time), clock.time()
    throttle.take(PIECE)
    throttle.take(PIECE)
    assert clock.time() - start >= PIECE / MIB


@pytest.mark.parametrize("pause", [1.0, 3600.0])
def test_what_may_be_sent_at_once_after_a_pause_is_bounded(pause: float, clock: ManualClock) -> None:
    throttle = Throttle(MIB, clock.time)
    clock.advance(pause)
    burst = 0
    start = clock.time()
    while clock.time() == start:
        throttle.take(4096)
        burst += 4096
    assert burst == pytest.approx(MIB * BURST_SECONDS, abs=2 * 4096)


def test_a_pause_that_is_short_gives_what_it_was_worth(clock: ManualClock) -> None:
    throttle = Throttle(MIB, clock.time)
    clock.advance(0.125)
    assert seconds_of(throttle, clock, MIB // 8) == 0
    assert seconds_of(throttle, clock, PIECE) > 0


@pytest.mark.parametrize(("before", "after"), [(10 * MIB, MIB), (MIB, 10 * MIB), (None, MIB)], ids=["lower", "higher", "from none"])
def test_a_new_rate_holds_from_now_on(before: int | None, after: int, clock: ManualClock) -> None:
    throttle = Throttle(before, clock.time)
    seconds_of(throttle, clock, MIB)
    throttle.set(after)
    assert seconds_of(throttle, clock, 20 * after) == pytest.approx(20, abs=BURST_SECONDS + 0.1)


def test_what_was_saved_at_a_higher_rate_is_not_spent_at_a_lower_one(clock: ManualClock) -> None:
    throttle = Throttle(1000 * MIB, clock.time)
    clock.advance(60)
    throttle.set(MIB)
    assert seconds_of(throttle, clock, 2 * MIB) > 1.5


def test_no_limit_holds_from_now_on(clock: ManualClock) -> None:
    throttle = Throttle(SLOW, clock.time)
    seconds_of(throttle, clock, 2 * PIECE)
    throttle.set(None)
    assert seconds_of(throttle, clock, 1000 * MIB) == 0


def test_time_without_a_limit_is_not_saved_up(clock: ManualClock) -> None:
    throttle = Throttle(None, clock.time)
    throttle.take(1000 * MIB)
    clock.advance(3600)
    throttle.set(MIB)
    start = clock.time()
    throttle.take(1)
    assert clock.time() > start


def test_what_was_owed_before_there_was_no_limit_is_not_waited_for(clock: ManualClock) -> None:
    throttle = Throttle(SLOW, clock.time)
    throttle.take(PIECE)
    throttle.set(None)
    throttle.set(MIB)
    assert seconds_of(throttle, clock, PIECE) < 1


def test_the_same_rate_again_gives_nothing(clock: ManualClock) -> None:
    throttle, start = Throttle(MIB, clock.time), clock.time()
    for _ in range(20 * MIB // PIECE):
        throttle.set(MIB)
        throttle.take(PIECE)
    assert clock.time() - start == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize("rate", [None, 1000 * MIB], ids=["none", "a higher one"])
def test_a_new_rate_wakes_who_waits(rate: int | None) -> None:
    throttle = Throttle(SLOW, time.monotonic)
    thread = begun(throttle, [PIECE, PIECE])
    thread.join(0.3)
    assert thread.is_alive()
    throttle.set(rate)
    assert ended(thread)


def test_a_lower_rate_holds_for_who_waits_too() -> None:
    throttle = Throttle(PIECE, time.monotonic)
    throttle.take(PIECE)
    thread = begun(throttle, [PIECE])  # would wait for a second
    throttle.set(SLOW)
    thread.join(1.5)
    assert thread.is_alive()
    throttle.set(None)
    assert ended(thread)


def test_a_rate_is_kept_with_a_real_clock() -> None:
    throttle, start = Throttle(4 * MIB, time.monotonic), time.monotonic()
    for _ in range(2 * MIB // PIECE):
        throttle.take(PIECE)
    assert time.monotonic() - start >= 0.45
