"""What a source tries before it stops a VM: all that a copy will need, but the copy."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import paramiko

from kubeferry.agent.storage import probe
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.storage.looks import Looks
from kubeferry.agent.transfer import tls
from kubeferry.agent.transfer.attempt import Attempt
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.sender import expect
from kubeferry.agent.transfer.ssh import Line, connect, run
from kubeferry.agent.transfer.threads import finished
from kubeferry.agent.transfer.vocabulary import MAKE_DIRECTORY, PROBE
from kubeferry.agent.transfer.wire import Answer, AnswerState, Probed, ProbeRequest, Request, broken, message, parse
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint

PREFLIGHT_SECONDS = 45.0
"""For all of it: the controller gives a Preflight up after 60 s (`core.limits`), and should be told why before."""
THREADS = 64
"""Preflights at a time: more than a node moves at once."""


class Preflights:
    """Those of one host."""

    def __init__(self, instances_path: Path, host_id: str) -> None:
        """Nothing is done yet.

        Args:
            instances_path: where the instances lie here.
            host_id: of this host.
        """
        self._instances_path = instances_path
        self._host_id = host_id
        self._looks = Looks(instances_path, "preflight-look")
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="preflight")

    async def run(self, endpoint: SshEndpoint, identity: Path, request: Request) -> None:
        """Do all that a copy will need, but the copy. No longer than `PREFLIGHT_SECONDS`, and nobody is at it when it has ended.

        Args:
            endpoint: the target.
            identity: path of this host's private key.
            request: which copy is meant.

        Raises:
            TransferError: the target can't be reached, refuses (its own reason is told then), or is too slow. `StorageShared`,
                `StorageUnknown`, `DataPortUnreachable`.
        """
        attempt = Attempt(PREFLIGHT_SECONDS)
        alarm = asyncio.get_running_loop().call_later(PREFLIGHT_SECONDS, attempt.end)
        try:
            await finished(self._threads.submit(self._run, attempt, endpoint, identity, request), attempt.end)
        finally:
            alarm.cancel()

    def _run(self, attempt: Attempt, endpoint: SshEndpoint, identity: Path, request: Request) -> None:
        try:
            with attempt:
                self._try(attempt, endpoint, identity, request)
        except TransferError as error:
            if not attempt.is_over:
                raise
            text = f"the preflight was given up after {PREFLIGHT_SECONDS:.0f} s, when it was to {attempt.step}: {error}"
            raise TransferError(error.reason, text, retryable=True) from error

    def _try(self, attempt: Attempt, endpoint: SshEndpoint, identity: Path, request: Request) -> None:
        attempt.step = "reach the target's sshd"
        with connect(endpoint, identity, attempt.dial) as transport:
            try:
                self._probe(attempt, transport, endpoint, request)
            except StorageError as error:
                raise _unknown(str(error)) from error
            attempt.step = "have the instance directory made"
            with run(transport, MAKE_DIRECTORY) as line:
                line.send(message(request))
                expect(_answer(line), AnswerState.MADE)

    def _probe(self, attempt: Attempt, transport: paramiko.Transport, endpoint: SshEndpoint, request: Request) -> None:
        own, path = tls.make_identity(), self._instances_path
        attempt.step = "leave a file for the target to see"
        # Both hosts leave a file before either looks: of two that share storage, the one that looks last sees the other's at least.
        with self._looks.held(probe.left(path, self._host_id), attempt.rest) as ours:
            attempt.step = "hear what the target sees"
            with run(transport, PROBE) as line:
                line.send(message(ProbeRequest(request=request, probe=ours, certificate=own.certificate)))
                probed = _probed(line)
                attempt.step = "look for the file that the target has left"
                here = self._looks.call(partial(probe.is_seen, path, probed.probe), attempt.rest)
                _require_local(here=here, there=probed.seen)
                attempt.step = "reach the target's data port"
                with tls.connect(endpoint.address, probed.data, own, attempt.dial):
                    attempt.step = "remove the file that it had left"


def _probed(line: Line) -> Probed:
    answer = _answer(line)
    if answer.error is not None and answer.error.reason == reasons.STORAGE_ERROR:
        raise _unknown(f"the target can't tell: {answer.error.message}")
    expect(answer, AnswerState.PROBED)
    if answer.probed is None:
        raise broken("the target does not tell what it saw; see that both agents are of one version")
    return answer.probed


def _answer(line: Line) -> Answer:
    """Without the signs of life that are taken from a receiver: what is asked here is short."""
    return parse(Answer, line.receive())


def _require_local(*, here: bool, there: bool) -> None:
    """Go on, if neither host sees what the other has left."""
    if here and there:
        message = (
            "source and target see the same instances' file system: a VM on shared storage can't be moved by this version. "
            "Choose a target with its own, or give each its own"
        )
        raise TransferError(reasons.STORAGE_SHARED, message)
    if here or there:
        who = "the source sees what the target has left there, not the other way round" if here else "the target sees, the source does not"
        raise _unknown(f"{who}; see that both mount the same, and that neither mount is stale or read-only")


def _unknown(seen: str) -> TransferError:
    text = f"whether source and target share the instances' file system can't be told: {seen}. Nothing was touched"
    return TransferError(reasons.STORAGE_UNKNOWN, text, retryable=True)
