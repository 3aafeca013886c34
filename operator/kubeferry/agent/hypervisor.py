"""The blocking hypervisor port, called from the event loop: a thread for each caller, and a deadline on every call."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kubeferry.agent.virt.port import Hypervisor, HypervisorError, HypervisorFacts
from kubeferry.api import reasons

CALL_DEADLINE = 30.0
"""Seconds after which a call to libvirt counts as hung."""
LONG_DEADLINE = 120.0
"""Seconds for a start, in which libvirt waits for QEMU, and QEMU for its memory and its disks; and for a forced end, in which libvirt
itself waits for up to 40 s for a process that hangs in the kernel."""

T = TypeVar("T")


class HypervisorCalls:
    """A `Hypervisor` for coroutines. Each of its methods may raise `HypervisorError`.

    A call that does not return can't be ended: `hung` is set, every later call fails at once (`HypervisorHung`), and the
    agent must end itself so that nothing is waited for behind it.
    """

    def __init__(self, port: Hypervisor, callers: int, deadline: float = CALL_DEADLINE, long_deadline: float = LONG_DEADLINE) -> None:
        """Nothing is called yet.

        Args:
            port: what is called.
            callers: how many may call at a time: a call that waited for a thread would seem to hang.
            deadline: seconds for a call.
            long_deadline: seconds for `create` and `destroy`.
        """
        self._port = port
        self._deadline = deadline
        self._long_deadline = long_deadline
        self._pool = ThreadPoolExecutor(max_workers=callers, thread_name_prefix="libvirt")
        self.hung = asyncio.Event()

    async def facts(self) -> HypervisorFacts:
        """See `Hypervisor.facts`."""
        return await self._call("facts", self._port.facts, self._deadline)

    async def domains(self) -> Mapping[str, bool]:
        """See `Hypervisor.domains`."""
        return await self._call("domains", self._port.domains, self._deadline)

    async def watch(self, callback: Callable[[str], None]) -> None:
        """See `Hypervisor.watch`; the callback comes from another thread."""
        await self._call("watch", lambda: self._port.watch(callback), self._deadline)

    async def create(self, xml: str, allowed: Callable[[], bool]) -> None:
        """See `Hypervisor.create`; `allowed` is asked from another thread."""
        await self._call("create", lambda: self._port.create(xml, allowed), self._long_deadline)

    async def shutdown(self, uuid: str) -> None:
        """See `Hypervisor.shutdown`."""
        await self._call("shutdown", lambda: self._port.shutdown(uuid), self._deadline)

    async def destroy(self, uuid: str) -> None:
        """See `Hypervisor.destroy`."""
        await self._call("destroy", lambda: self._port.destroy(uuid), self._long_deadline)

    async def _call(self, name: str, call: Callable[[], T], deadline: float) -> T:
        if self.hung.is_set():
            raise HypervisorError(
                reasons.HYPERVISOR_HUNG, f"{name} was not asked of libvirt, since a call before did not return; the agent ends"
            )
        work = asyncio.get_running_loop().run_in_executor(self._pool, call)
        try:
            return await asyncio.wait_for(work, deadline)
        except TimeoutError as error:
            self.hung.set()
            message = f"libvirt did not return from {name} within {deadline:.0f} s: see libvirtd's log on this node; the agent ends"
            raise HypervisorError(reasons.HYPERVISOR_HUNG, message) from error
