"""What a source tries before it stops a VM: all that a copy will need, but the copy."""

from pathlib import Path

import paramiko

from kubeferry.agent.storage import probe
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer import tls
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.sender import answered, expect
from kubeferry.agent.transfer.ssh import Line, connect, run
from kubeferry.agent.transfer.vocabulary import MAKE_DIRECTORY, PROBE
from kubeferry.agent.transfer.wire import AnswerState, Probed, ProbeRequest, Request, broken, message
from kubeferry.api import reasons
from kubeferry.api.computenode import SshEndpoint


def preflight(endpoint: SshEndpoint, identity: Path, request: Request, instances_path: Path, host_id: str) -> None:
    """Do all that a copy will need, but the copy.

    Args:
        endpoint: the target.
        identity: path of this host's private key.
        request: which copy is meant.
        instances_path: where the instances lie here.
        host_id: of this host.

    Raises:
        TransferError: the target can't be reached, or refuses; its own reason is told then. `StorageShared`, `StorageUnknown`,
            `DataPortUnreachable`.
    """
    with connect(endpoint, identity) as transport:
        _probe(transport, endpoint, request, instances_path, host_id)
        with run(transport, MAKE_DIRECTORY) as line:
            line.send(message(request))
            expect(answered(line, _go_on), AnswerState.MADE)


def _probe(transport: paramiko.Transport, endpoint: SshEndpoint, request: Request, instances_path: Path, host_id: str) -> None:
    own = tls.make_identity()
    try:
        with probe.left(instances_path, host_id) as ours, run(transport, PROBE) as line:
            line.send(message(ProbeRequest(request=request, probe=ours, certificate=own.certificate)))
            probed = _probed(line)
            _require_local(here=probe.is_seen(instances_path, probed.probe), there=probed.seen)
            with tls.connect(endpoint.address, probed.data, own):
                return
    except StorageError as error:
        raise _unknown(str(error)) from error


def _probed(line: Line) -> Probed:
    answer = answered(line, _go_on)
    if answer.error is not None and answer.error.reason == reasons.STORAGE_ERROR:
        raise _unknown(f"the target can't tell: {answer.error.message}")
    expect(answer, AnswerState.PROBED)
    if answer.probed is None:
        raise broken("the target does not tell what it saw; see that both agents are of one version")
    return answer.probed


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


def _go_on() -> None:
    """The `on_alive` of what is short."""
