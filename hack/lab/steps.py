"""Steps with a deadline: whatever the lab waits for either comes in time or fails with the log that was waited on."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.05
TAIL_LINES = 25


class LabError(Exception):
    """A step of the lab failed, or kubeferry did not start in it: the message tells which, with the end of the log that tells why."""


class NotYet(Exception):  # noqa: N818 - it is an answer, not an error
    """Raised by a condition that does not hold yet; says what was seen instead."""


class Running(Protocol):
    """A process that a wait depends on."""

    def ended(self) -> str | None:
        """How the process ended, or None while it runs."""


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log under a heading that names it."""
    if not log.exists():
        return f"--- {log}: no such file"
    text = log.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join([f"--- last lines of {log}", *(text or ["(empty)"]), "---"])


def wait_until(what: str, condition: Callable[[], T], *, seconds: float, log: Path | None = None, process: Running | None = None) -> T:
    """Poll a condition until it stops raising `NotYet`, and return what it returns.

    Args:
        what: what is waited for, as in "waiting for WHAT".
        condition: raises `NotYet` with what it saw as long as it does not hold.
        seconds: the deadline.
        log: where the awaited party writes; its tail becomes part of the error.
        process: the awaited party; when it ends first, there is nothing left to wait for.

    Raises:
        LabError: the deadline passed, or the process ended.
    """
    deadline = time.monotonic() + seconds
    while True:
        ended = process.ended() if process else None
        try:
            return condition()
        except NotYet as not_yet:
            seen = str(not_yet)
        if ended:
            raise LabError(_failure(f"waiting for {what}: {ended} (last seen: {seen})", log))
        if time.monotonic() > deadline:
            raise LabError(_failure(f"waiting for {what}: not within {seconds:g} s (last seen: {seen})", log))
        time.sleep(POLL_SECONDS)


def run(
    argv: Sequence[str | Path], *, seconds: float = 30, stdin: str | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a helper command of the lab to its end.

    Raises:
        LabError: it failed or took longer than `seconds`; with all that it printed.
    """
    command = " ".join(str(a) for a in argv)
    try:
        return subprocess.run(argv, input=stdin, env=env, timeout=seconds, check=True, capture_output=True, text=True)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{command}: not done within {seconds:g} s") from error
    except subprocess.CalledProcessError as error:
        raise LabError(f"{command}: exit status {error.returncode}\n{error.stdout}{error.stderr}".rstrip()) from error


def _failure(message: str, log: Path | None) -> str:
    return f"{message}\n{tail(log)}" if log else message
