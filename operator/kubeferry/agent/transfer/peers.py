"""The other hosts: which of them may call this one, where each is, and what this one does at them."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog
from pydantic import ValidationError

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.machine import Machine
from kubeferry.agent.storage.errors import storage_errors
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.keys import Keys
from kubeferry.agent.transfer.pace import Pace
from kubeferry.agent.transfer.sender import Sent, make_directory, send
from kubeferry.agent.transfer.sshd import authorized_keys, write_authorized_keys
from kubeferry.agent.transfer.threads import finished, unstoppable
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

THREADS = 64
"""Preflights, and copies, at a time: more than a node moves at once."""


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
    """What this host does at others: each of its methods runs in a thread, and has ended when it returns."""

    def __init__(self, machine: Machine, peers: Peers, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds and never goes back; it is asked from threads."""
        self._machine = machine
        self._peers = peers
        self._keys = keys
        self._clock = clock
        # Apart, and enough of them: a VM is off while its copy waits, and a Preflight that waits would be taken for one that hangs.
        self._preflights = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="preflight")
        self._copies = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="copy")

    async def preflight(self, task: HostTaskSpec) -> None:
        """Reach the target as a copy will, and have the VM's instance directory made there.

        Raises:
            RefusedError: `InvalidTask`: the task lacks its parameters.
            TransferError: the target can't be reached, or refuses.
            KubeError: the API server did not answer.
        """
        if task.preflight is None:
            raise _lacking(task)
        endpoint = await self._peers.endpoint(task.preflight.target, task.preflight.target_host_id)
        work = self._preflights.submit(make_directory, endpoint, self._keys.identity, _request(task))
        await finished(work, unstoppable)

    async def copy(self, task: HostTaskSpec, journal: Journal, on_progress: Callable[[TaskProgress], None]) -> Sent:
        """Send every file that the journal created, and wait until the target has verified them.

        Args:
            task: of verb Copy.
            journal: of the copy here; nobody writes to it meanwhile.
            on_progress: told in the event loop how far it is, as `Pace` does, and at the end of the data.

        Raises:
            RefusedError: `InvalidTask`: the task lacks its parameters.
            TransferError: the target can't be reached or refuses, the stream broke, or the digests differ.
            StorageError: a file is missing, or can't be read.
            KubeError: the API server did not answer.
        """
        if task.copy is None:
            raise _lacking(task)
        endpoint = await self._peers.endpoint(task.copy.target, task.copy.target_host_id)
        stopped = threading.Event()
        loop = asyncio.get_running_loop()

        def tell(progress: TaskProgress) -> None:
            loop.call_soon_threadsafe(on_progress, progress)

        work = self._copies.submit(
            send,
            endpoint,
            self._keys.identity,
            _request(task),
            self._machine.instance(journal.uid),
            journal.created,
            Pace(self._clock, tell),
            stopped.is_set,
        )
        return await finished(work, stopped.set)


def _request(task: HostTaskSpec) -> Request:
    return Request(uid=task.placement.name, epoch=task.epoch, epoch_id=task.epoch_id)


def _lacking(task: HostTaskSpec) -> RefusedError:
    return RefusedError(reasons.INVALID_TASK, f"the task lacks the parameters of {task.verb}")
