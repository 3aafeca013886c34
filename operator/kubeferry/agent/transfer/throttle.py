"""How fast a copy may be: a token bucket (RFC 2697's committed rate), whose rate may change while it runs."""

import threading
from collections.abc import Callable

BURST_SECONDS = 0.25
"""What may be sent at once after a pause."""
PIECE = 64 << 10
"""Bytes asked for at a time, so that a low limit is no limit for each chunk."""


class Throttle:
    """Bytes a second of one copy. One thread takes, another may set the rate."""

    def __init__(self, rate: int | None, clock: Callable[[], float]) -> None:
        """Begin with nothing to spend.

        Args:
            rate: bytes a second; None: as fast as it goes.
            clock: gives seconds and never goes back.
        """
        self._clock = clock
        self._changed = threading.Condition()
        self._rate = rate
        self._at = clock()
        self._left = 0.0

    def set(self, rate: int | None) -> None:
        """From now on, so many bytes a second; whoever waits goes by it at once."""
        with self._changed:
            self._fill()
            self._rate = rate
            self._changed.notify()

    def take(self, count: int) -> None:
        """Wait until so many bytes may be sent."""
        with self._changed:
            self._fill()
            while self._rate is not None and self._left <= 0:
                self._changed.wait(-self._left / self._rate + 0.001)
                self._fill()
            if self._rate is not None:
                self._left -= count

    def _fill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            self._left = min(self._left + (now - self._at) * self._rate, self._rate * BURST_SECONDS)
        else:
            self._left = 0.0
        self._at = now
