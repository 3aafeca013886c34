"""When a VM that keeps stopping may be started again by its own host."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

FIRST_WAIT = timedelta(seconds=1)
LONGEST_WAIT = timedelta(minutes=5)
FORGOTTEN_AFTER = timedelta(minutes=10)
"""A VM that was not revived for so long is revived at once."""
REFUSED_WAIT = timedelta(seconds=10)
"""When what said no is asked again: the gate, the image's lock, an API server that does not answer."""


@dataclass(slots=True)
class _Revival:
    at: float | None = None
    wait: timedelta = timedelta()
    due: float = 0.0


class Revivals:
    """By uid, in memory: an agent that was restarted may revive at once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds and never goes back."""
        self._clock = clock
        self._known: dict[str, _Revival] = {}

    def remaining(self, uid: str) -> timedelta:
        """How long the VM must wait for its next revival; zero: not at all."""
        known = self._known.get(uid)
        return timedelta(seconds=max(0.0, known.due - self._clock())) if known is not None else timedelta()

    def tried(self, uid: str) -> timedelta:
        """The VM was started, or the start failed; how long the next one must wait."""
        now = self._clock()
        known = self._known.setdefault(uid, _Revival())
        if known.at is None or now - known.at > FORGOTTEN_AFTER.total_seconds():
            known.wait = FIRST_WAIT
        else:
            known.wait = min(known.wait * 2, LONGEST_WAIT)
        known.at, known.due = now, now + known.wait.total_seconds()
        return known.wait

    def halted(self, uid: str) -> timedelta:
        """The VM is to stay off: a task comes when it is to run; when to ask again all the same."""
        self._known.setdefault(uid, _Revival()).due = self._clock() + LONGEST_WAIT.total_seconds()
        return LONGEST_WAIT

    def refused(self, uid: str) -> timedelta:
        """Nothing was started, since something said no; when to ask again."""
        self._known.setdefault(uid, _Revival()).due = self._clock() + REFUSED_WAIT.total_seconds()
        return REFUSED_WAIT
