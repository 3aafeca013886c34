"""How often a Copy tells how far it is: seldom enough for the API server, often enough for people, and to be taken for alive."""

from collections.abc import Callable

from kubeferry.api.task import TaskProgress

SECONDS = 2.0
"""Between two words at least, but the last one."""
PART = 100
"""Between two words at least a hundredth of the data has moved."""
SILENCE_SECONDS = 10.0
"""Unless so much time has passed: a hundredth of a large disk takes longer than a Copy may be silent."""


class Pace:
    """Passes progress on: the first word, the last, and some in between; what moves no byte is a sign of life."""

    def __init__(self, clock: Callable[[], float], tell: Callable[[TaskProgress], None]) -> None:
        """`clock` gives seconds and never goes back."""
        self._clock = clock
        self._tell = tell
        self._seen: tuple[int, int] | None = None
        self._signs = 0
        self._told: tuple[float, int] | None = None  # when, and how many bytes

    def __call__(self, done: int, total: int, sent: int) -> None:
        """The target has so many bytes of so many, and so many went over the network for it."""
        moved, self._seen = self._seen != (done, total), (done, total)
        self._signs += not moved
        now = self._clock()
        if not self._due(now, done, total, moved=moved):
            return
        rate = self._rate(now, done)
        self._told = (now, done)
        self._tell(TaskProgress(bytes_total=total, bytes_done=done, bytes_sent=sent, signs=self._signs, rate=rate))

    def _due(self, now: float, done: int, total: int, *, moved: bool) -> bool:
        if self._told is None or (moved and done == total):
            return True
        at, before = self._told
        if now - at < SECONDS:
            return False
        return not moved or (done - before) * PART >= total or now - at >= SILENCE_SECONDS

    def _rate(self, now: float, done: int) -> int | None:
        """Bytes a second since the last word."""
        if self._told is None or now <= self._told[0]:
            return None
        at, before = self._told
        return round((done - before) / (now - at))
