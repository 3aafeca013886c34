"""What the person who waits gets to see."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_EVERY_SECONDS = 30.0


def say(message: str) -> None:
    """Print one line. On stderr: stdout belongs to what a command answers."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def ticking(label: str) -> Iterator[Callable[[], None]]:
    """Announce a long step; yields a function to call about once a second, which shows the seconds that have passed.

    On a terminal the line is rewritten; elsewhere a plain line comes every 30 s.
    """
    started = time.monotonic()
    terminal = sys.stderr.isatty()
    shown = started

    def tick() -> None:
        nonlocal shown
        now = time.monotonic()
        if terminal:
            print(f"\r{label}: {now - started:.0f} s", end="", file=sys.stderr, flush=True)
        elif now - shown >= PLAIN_EVERY_SECONDS:
            shown = now
            say(f"{label}: {now - started:.0f} s so far")

    if terminal:
        tick()
    else:
        say(label)
    outcome = "failed"
    try:
        yield tick
        outcome = "done"
    finally:
        say(f"{chr(13) if terminal else ''}{label}: {outcome}, {time.monotonic() - started:.0f} s")
