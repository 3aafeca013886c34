"""The blocking hypervisor port, called from the event loop: a few threads, and a deadline on every call."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kubeferry.agent.virt.port import Hypervisor, HypervisorError, HypervisorFacts
from kubeferry.api import reasons

CALL_DEADLINE = 30.0
"""Seconds after which a call to libvirt counts as hung."""

T = TypeVar("T")


class ExpiredError(Exception):
    """What allowed a start was too old when the start would have been made."""


class HypervisorCalls:
    """A `Hypervisor` for coroutines.

    A call that does not return can't be ended: `hung` is set, and the agent must end itself so that nothing is waited for
    behind it.
    """

    def __init__(self, port: Hypervisor, deadline: float = CALL_DEADLINE) -> None:
        self._port = port
        self._deadline = deadline
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="libvirt")
        self.hung = asyncio.Event()

    async def facts(self) -> HypervisorFacts:
        """See `Hypervisor.facts`."""
        return await self._call("facts", self._port.facts)

    async def domains(self) -> Mapping[str, bool]:
        """See `Hypervisor.domains`."""
        return await self._call("domains", self._port.domains)

    async def watch(self, callback: Callable[[str], None]) -> None:
        """See `Hypervisor.watch`; the callback comes from another thread."""
        await self._call("watch", lambda: self._port.watch(callback))

    async def create(self, xml: str, allowed: Callable[[], bool]) -> None:
        """Start a domain, if `allowed` still says so in the thread that starts it.

        Raises:
            ExpiredError: it did not; nothing was started.
        """

        def start() -> None:
            if not allowed():
                raise ExpiredError
            self._port.create(xml)

        await self._call("create", start)

    async def _call(self, name: str, call: Callable[[], T]) -> T:
        work = asyncio.get_running_loop().run_in_executor(self._pool, call)
        try:
            return await asyncio.wait_for(work, self._deadline)
        except TimeoutError as error:
            self.hung.set()
            message = f"libvirt did not return from {name} within {self._deadline:.0f} s: see libvirtd's log on this node; the agent ends"
            raise HypervisorError(reasons.HYPERVISOR_HUNG, message) from error
