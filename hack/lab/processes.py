"""Processes that are on record before they do anything, and are signalled only if they still are the recorded ones."""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import AnyStr

from lab.record import Identity, Record, Started
from lab.steps import LabError, NotYet, wait_until

# Waits for one line and becomes the command, which gets the rest of stdin. When the lab dies before the process is on
# record, the line never comes.
GATE = ("/bin/sh", "-c", 'read -r _ || exit 1; exec "$@"', "gate")
GONE_SECONDS = 15.0
PROC = Path("/proc")


def identify(pid: int) -> Identity | None:
    """The identity of a process that runs; None if there is none or only its exit status is left (a zombie)."""
    seen = _look(pid)
    return seen[0] if seen else None


def myself() -> Identity:
    """The identity of this process."""
    identity = identify(os.getpid())
    assert identity is not None  # noqa: S101 - it is running this
    return identity


def runs(identity: Identity) -> bool:
    """Whether this very process still runs."""
    return identify(identity.pid) == identity


def send(identity: Identity, number: signal.Signals) -> None:
    """Signal this very process; none is signalled if it is gone."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor holds on to one process: if that is the recorded one, no other can take its place now.
        if runs(identity):
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def kill_group(leader: Identity) -> None:
    """SIGKILL a process and its group, if it still is the leader it was."""
    if runs(leader):
        try:
            os.killpg(leader.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def children(parent: Identity) -> list[Identity]:
    """The children of this very process that run; empty if it is gone."""
    try:
        pids = (PROC / f"{parent.pid}/task/{parent.pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    # A child may end and its pid become a stranger's since: that one has another parent.
    seen = [child for child in map(_look, map(int, pids)) if child is not None]
    found = [identity for identity, its_parent in seen if its_parent == parent.pid]
    # Only now: a parent that still runs had its pid all the while. One that ran before might have left it to a stranger, with children.
    return found if runs(parent) else []


def wait_gone(what: str, identities: Sequence[Identity], *, seconds: float = GONE_SECONDS) -> None:
    """Wait until none of the processes runs.

    Raises:
        LabError: one still does after `seconds`.
    """

    def gone() -> None:
        if left := [identity.pid for identity in identities if runs(identity)]:
            raise NotYet(f"still running: pid {', '.join(map(str, left))}")

    wait_until(f"the end of {what}", gone, seconds=seconds)


class Process:
    """A process that the lab started.

    Attributes:
        name: what it is called in the record.
        log: where it writes stdout and stderr.
        target: the process that signals go to: itself, or the one that it runs inside a host.
    """

    def __init__(self, name: str, log: Path, popen: "subprocess.Popen[bytes]", identity: Identity) -> None:
        self.name = name
        self.log = log
        self.target = identity
        self.outer = identity
        self._popen = popen
        self._reaping = threading.Lock()

    def ended(self) -> str | None:
        """How it ended, or None while it runs. Reaps it."""
        with self._reaping:
            code = self._popen.poll()
        return None if code is None else f"{self.name} ended with {code}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        send(self.target, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Helpers that it started are left as they are."""
        self.signal(signal.SIGKILL)
        wait_gone(self.name, [self.target])
        send(self.outer, signal.SIGKILL)  # nsenter stays stopped when what it runs was stopped
        self.reap()

    def stop(self, *, seconds: float = GONE_SECONDS) -> None:
        """SIGTERM, and wait until it is gone.

        Raises:
            LabError: it still runs after `seconds`; with its log.
        """
        self.signal(signal.SIGTERM)
        self.reap(seconds=seconds)

    def reap(self, *, seconds: float = GONE_SECONDS) -> None:
        """Wait until it has ended.

        Raises:
            LabError: it still runs after `seconds`; with its log.
        """

        def reaped() -> None:
            if self.ended() is None:
                raise NotYet(f"pid {self.target.pid} runs")

        wait_until(f"the end of {self.name}", reaped, seconds=seconds, log=self.log)


class Processes:
    """Starts the processes of one lab, each on record before it does anything, and reaps them."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._all: list[Process] = []

    def spawn(self, name: str, argv: Sequence[str | Path], log: Path, *, env: Mapping[str, str], cwd: Path | None = None) -> Process:
        """Start a process in a session of its own. Its output is appended to `log`."""
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [*GATE, *argv], stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=cwd, env=env, start_new_session=True
            )
        process = Process(name, log, popen, self._put_on_record(name, popen))
        self._all.append(process)
        gate = popen.stdin
        assert gate is not None  # noqa: S101 - it was asked for
        with gate:
            gate.write(b"\n")
        return process

    def run(self, argv: Sequence[str | Path], *, seconds: float = 30, stdin: str = "", env: Mapping[str, str] | None = None) -> str:
        """Run a command to its end and return what it wrote to stdout.

        Raises:
            LabError: it failed or took longer than `seconds`; with all that it printed.
        """
        command = " ".join(map(str, argv))
        popen = subprocess.Popen(
            [*GATE, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,
        )
        with popen:
            identity = self._put_on_record(command, popen)
            try:
                output, errors = popen.communicate("\n" + stdin, timeout=seconds)
            except subprocess.TimeoutExpired as error:
                kill_group(identity)
                raise LabError(f"{command}: not done within {seconds:g} s") from error
        if popen.returncode != 0:
            raise LabError(f"{command}: exit status {popen.returncode}\n{output}{errors}".rstrip())
        return output

    def reap(self) -> None:
        """Wait for all that were spawned, once they were killed."""
        for process in self._all:
            process.reap()

    def _put_on_record(self, name: str, popen: "subprocess.Popen[AnyStr]") -> Identity:
        try:
            identity = _waiting(name, popen.pid)
            self._record.add(Started(name, identity))
        except BaseException:
            with popen:  # closes the gate, so that the shell ends, and reaps it
                raise
        return identity


def _look(pid: int) -> tuple[Identity, int] | None:
    """A process that runs and the pid of its parent, both from one read; None as for `identify`."""
    try:
        stat = (PROC / f"{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command in parentheses may itself hold spaces and parentheses: proc(5).
    state, *fields = stat.rpartition(")")[2].split()
    if state in "ZX":
        return None
    boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return Identity(pid, f"{fields[18]}@{boot}"), int(fields[0])


def _waiting(name: str, pid: int) -> Identity:
    identity = identify(pid)
    if identity is None:
        raise LabError(f"{name}: its shell ended at once")
    return identity
