"""The other hosts: which of them may call this one, where each is, and what this one does at them."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import ValidationError

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.machine import Machine
from kubeferry.agent.storage.errors import storage_errors
from kubeferry.agent.storage.layout import image_inodes
from kubeferry.agent.transfer.children import Child, Children
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.keys import Keys
from kubeferry.agent.transfer.preflight import Preflights
from kubeferry.agent.transfer.processes import NewLimit, SendJob, SendWord, Sent
from kubeferry.agent.transfer.sshd import authorized_keys, write_authorized_keys
from kubeferry.agent.transfer.vocabulary import SENDING
from kubeferry.agent.transfer.wire import Request
from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode, SshEndpoint
from kubeferry.api.model import load
from kubeferry.api.task import HostTaskSpec, TaskProgress
from kubeferry.core.journal import Journal
from kubeferry.kube.client import Cluster
from kubeferry.kube.errors import Forbidden, Invalid, NotFound, Unreadable

SOCKET = "agent.sock"
"""Where the agent takes copies, below its run path."""


log = structlog.get_logger(__name__)


def agent_socket(machine: Machine) -> Path:
    """Where this host's agent takes copies."""
    return machine.settings.run_path / SOCKET


class Peers:
    """The other hosts, as their ComputeNodes tell."""

    def __init__(self, machine: Machine, cluster: Cluster, keys: Keys) -> None:
        self._machine = machine
        self._cluster = cluster
        self._keys = keys
        # One at a time: what was listed later must not be written over by what was listed before.
        self._authorizing = asyncio.Lock()

    async def authorize(self) -> None:
        """Let every other node's agent in that tells of a key, and nobody else.

        Raises:
            KubeError: the API server did not answer; who was let in still is.
            StorageError: the file system refused.
        """
        async with self._authorizing:
            peers: dict[str, str] = {}
            async for page in self._cluster.pages(ComputeNode):
                for body in page.items:
                    try:
                        node = load(ComputeNode, body)
                    except ValidationError as error:
                        log.error("ComputeNode can't be read: the node is not let in", peer=body["metadata"]["name"], error=str(error))
                        continue
                    if node.status is not None and node.status.ssh is not None and node.metadata.name != self._machine.node:
                        peers[node.metadata.name] = node.status.ssh.identity_key
            path = authorized_keys(self._keys)
            with storage_errors(f"write {path}"):
                await asyncio.to_thread(write_authorized_keys, path, peers, agent_socket(self._machine))

    async def endpoint(self, node: str, host_id: str) -> SshEndpoint:
        """Where a host is reached, read consistently.

        Args:
            node: its node's name.
            host_id: its identity.

        Raises:
            TransferError: `PeerUnknown`: the node does not tell of it, or is another host by now.
            KubeError: the API server did not answer.
        """
        try:
            status = (await self._cluster.get(ComputeNode, node)).status
        except (NotFound, Forbidden, Invalid, Unreadable) as error:  # asked again it would be the same
            raise TransferError(reasons.PEER_UNKNOWN, f"the ComputeNode of {node} can't be read: {error}") from error
        if status is not None and status.host_id != host_id:
            message = f"node {node} is host {status.host_id} by now, {host_id} was expected: its state was made anew"
            raise TransferError(reasons.PEER_UNKNOWN, message)
        if status is None or status.ssh is None:
            message = f"the ComputeNode of {node} does not tell how its agent is reached; see that agent's log, and its version"
            raise TransferError(reasons.PEER_UNKNOWN, message, retryable=True)
        return status.ssh


class Outbound:
    """What this host does at others; whatever one of its methods began has ended when it returns."""

    def __init__(self, machine: Machine, peers: Peers, keys: Keys, children: Children) -> None:
        self._machine = machine
        self._peers = peers
        self._keys = keys
        self._children = children
        self._preflights = Preflights(machine.settings.instances_path, machine.host_id)
        self._sending: dict[tuple[str, int], Child] = {}  # by uid of the VM and number of the task
        self._limits: dict[tuple[str, int], int | None] = {}

    async def preflight(self, task: HostTaskSpec) -> None:
        """Do all that a copy will need, but the copy.

        Raises:
            RefusedError: `InvalidTask`: the task lacks its parameters.
            TransferError: the target can't be reached, or refuses; or storage is not each one's own.
            KubeError: the API server did not answer.
        """
        if task.preflight is None:
            raise _lacking(task)
        endpoint = await self._peers.endpoint(task.preflight.target, task.preflight.target_host_id)
        await self._preflights.run(endpoint, self._keys.identity, _request(task))

    def saw(self, task: HostTaskSpec, *, ended: bool) -> None:
        """A task of this host is told of: a Copy that has not ended goes by its limit from now on, whether it runs or is to begin."""
        if task.copy is None:
            return
        key = (task.placement.name, task.seq)
        if ended:
            self._limits.pop(key, None)
            return
        self._limits[key] = task.copy.bandwidth_limit
        if key in self._sending:
            self._sending[key].tell(NewLimit(limit=task.copy.bandwidth_limit))

    async def copy(self, task: HostTaskSpec, journal: Journal, on_progress: Callable[[TaskProgress], None]) -> Sent:
        """Send every file that the journal created, and wait until the target has verified them.

        Args:
            task: of verb Copy.
            journal: of the copy here; nobody writes to it meanwhile.
            on_progress: told how far it is, as `Pace` does, and at the end of the data.

        Raises:
            RefusedError: `InvalidTask`: the task lacks its parameters.
            TransferError: the target can't be reached or refuses, the stream broke, or the digests differ.
            StorageError: a file is missing, or can't be read.
            KubeError: the API server did not answer.
        """
        if task.copy is None:
            raise _lacking(task)
        key = (task.placement.name, task.seq)
        endpoint = await self._peers.endpoint(task.copy.target, task.copy.target_host_id)
        job = SendJob(
            endpoint=endpoint,
            identity=str(self._keys.identity),
            request=_request(task),
            directory=str(self._machine.instance(journal.uid)),
            names=journal.created,
            inodes=image_inodes(journal),
            limit=self._limits.get(key, task.copy.bandwidth_limit),
        )
        try:
            async with self._children.started(SENDING, job) as child:
                self._sending[key] = child
                child.tell(NewLimit(limit=self._limits.get(key, job.limit)))
                return await _sent(child, on_progress)
        finally:
            self._sending.pop(key, None)


async def _sent(child: Child, on_progress: Callable[[TaskProgress], None]) -> Sent:
    while True:
        word = await child.word(SendWord)
        if word.error is not None:
            raise TransferError(word.error.reason, word.error.message, retryable=word.error.retryable)
        if word.sent is not None:
            return word.sent
        if word.progress is not None:
            on_progress(word.progress)


def _request(task: HostTaskSpec) -> Request:
    names = structlog.contextvars.get_contextvars()  # as this host's own log lines tell them
    return Request(
        uid=task.placement.name,
        epoch=task.epoch,
        epoch_id=task.epoch_id,
        vm=str(names.get("vm", "")),
        migration=str(names.get("migration", "")),
    )


def _lacking(task: HostTaskSpec) -> RefusedError:
    return RefusedError(reasons.INVALID_TASK, f"the task lacks the parameters of {task.verb}")
