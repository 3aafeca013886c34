"""The proof that a VM is stopped on this host."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.look import LOOK_DEADLINE
from kubeferry.agent.machine import Machine
from kubeferry.agent.storage.errors import StorageError, storage_errors
from kubeferry.agent.storage.instance import instance_exists
from kubeferry.agent.storage.layout import disk_file
from kubeferry.agent.storage.lock import image_is_free
from kubeferry.agent.virt.processes import qemu_process
from kubeferry.api import reasons
from kubeferry.api.domain import Domain

T = TypeVar("T")

LOOKERS = 64
"""Looks at a time: one that hangs keeps its thread, and no other look may wait behind it."""


class StopProof:
    """Three looks, each at what the others can't see: libvirt, QEMU's locks of the disks, the host's processes."""

    def __init__(self, machine: Machine, hypervisor: HypervisorCalls, deadline: float = LOOK_DEADLINE) -> None:
        """`deadline`: seconds for each look at a file system."""
        self._machine = machine
        self._hypervisor = hypervisor
        self._deadline = deadline
        self._looks = ThreadPoolExecutor(max_workers=LOOKERS, thread_name_prefix="stop-proof")

    async def require(self, domain: Domain) -> None:
        """Return if the VM is stopped: nothing runs it, and nothing holds a disk of it that is here. Nothing is changed.

        Raises:
            RefusedError: `NotStopped`, retryable: a look saw that it may run; or libvirt knows a domain that does not run now.
            StorageError: a disk or a process can't be looked at, which is never "stopped".
            HypervisorError: the hypervisor does not answer.
        """
        known = await self._hypervisor.domains()
        if domain.uuid in known:
            seen = "which runs" if known[domain.uuid] else "which does not run now, and could be started by anybody: undefine it"
            raise _not_stopped(f"libvirt knows a domain with uuid {domain.uuid}, {seen} (see `virsh list --all`)")
        directory = self._machine.instance(domain.uuid)
        for image in await self._look(f"the disks in {directory}", partial(self._images, domain)):
            if not await self._look(f"the disk {image}", partial(image_is_free, image)):
                raise _not_stopped(f"a process holds QEMU's write lock of {image}: find it with `fuser -v {image}`")
        pid = await self._look("the processes of this host", partial(qemu_process, domain.uuid))
        if pid is not None:
            raise _not_stopped(f"process {pid} was started as QEMU with uuid {domain.uuid}: see why it has not ended")

    def _images(self, domain: Domain) -> list[Path]:
        """The disks that are here; runs in a thread."""
        if not instance_exists(self._machine.settings.instances_path, domain.uuid):
            return []
        directory = self._machine.instance(domain.uuid)
        with storage_errors(f"look into {directory}"):
            here = set(os.listdir(directory))
        return [directory / disk_file(disk) for disk in domain.disks if disk_file(disk) in here]

    async def _look(self, what: str, look: Callable[[], T]) -> T:
        work = asyncio.get_running_loop().run_in_executor(self._looks, look)
        try:
            return await asyncio.wait_for(work, self._deadline)
        except TimeoutError as error:
            message = f"a look at {what} does not return, {self._deadline:.0f} s were given; see that its file system answers"
            raise StorageError(reasons.STORAGE_ERROR, message, retryable=True) from error


def _not_stopped(seen: str) -> RefusedError:
    return RefusedError(reasons.NOT_STOPPED, f"the VM could not be proved stopped: {seen}; nothing of it was expected", retryable=True)
