"""Stops a VM for good: the guest is asked first, then made to, then it is proved."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.interruption import Interruption
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.stopped import StopProof
from kubeferry.agent.virt.port import HypervisorError
from kubeferry.api import reasons
from kubeferry.api.domain import Domain
from kubeferry.core import transitions
from kubeferry.core.journal import Journal

LOOK_EVERY = 0.25
"""Seconds between two looks at a domain that is to end."""
PRESS_EVERY = 1.0
"""Seconds between two presses of the power button: one that comes before the guest listens is lost."""
END_WITHIN = 30.0
"""Seconds for libvirt to forget a domain whose process was ended."""

log = structlog.get_logger(__name__)


class Sealer:
    """Carries out `Effect.STOP`, `Effect.FINISH_SEAL` and `Effect.POWER_OFF`."""

    def __init__(
        self,
        journals: JournalStore,
        hypervisor: HypervisorCalls,
        proof: StopProof,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`clock` gives seconds and never goes back; `pause` lets so many of them pass."""
        self._journals = journals
        self._hypervisor = hypervisor
        self._proof = proof
        self._clock = clock
        self._pause = pause

    async def seal(self, journal: Journal, interruption: Interruption) -> Journal:
        """Stop the VM and prove it stopped. Called again after an interruption, it goes on.

        Args:
            journal: SEALING, as the role table wants it written; that is done first, so that nothing starts the VM any more. Its
                step says how long the guest gets.
            interruption: ends it while the guest is waited for.

        Returns:
            The journal as it is written now: SEALED.

        Raises:
            RefusedError: `NotStopped`; the journal is SEALING.
            HypervisorError: the hypervisor does not answer, or could not end the domain; the journal is SEALING.
            StorageError: a journal can't be written, or the proof can't be had.
            SupersededError: it was ended; the journal is SEALING.
        """
        domain = await self.power_off(journal, interruption)
        await self._proof.require(domain)
        sealed = transitions.seal(journal)
        await asyncio.to_thread(self._journals.write, sealed)
        log.info("VM sealed")
        return sealed

    async def power_off(self, journal: Journal, interruption: Interruption) -> Domain:
        """Stop the VM, as far as libvirt can tell; what it ran with.

        Args:
            journal: as the role table wants it written; that is done first. Its step says how long the guest gets, in seconds,
                before force; 0: it is not asked.
            interruption: ends it while the guest is waited for.

        Raises:
            HypervisorError: the hypervisor does not answer, or could not end the domain.
            StorageError: the journal can't be written.
            SupersededError: it was ended.
        """
        if journal.domain is None:
            raise ValueError(f"the journal of {journal.uid} has no domain")
        await asyncio.to_thread(self._journals.write, journal)
        begun, grace = self._clock(), journal.step.grace_seconds
        how = await self._stop(journal.uid, grace, interruption)
        log.info("VM stopped", how=how, seconds=round(self._clock() - begun, 1), grace_seconds=grace)
        return journal.domain

    async def _stop(self, uid: str, grace: int, interruption: Interruption) -> str:
        """End the VM's domain; how it ended."""
        if not await self._runs(uid):
            how = "it did not run"
        elif await self._shut_down(uid, grace, interruption):
            how = "the guest shut down"
        else:
            how = "forced"
            log.warning("the guest has not shut down: it is ended by force", grace_seconds=grace)
            await self._hypervisor.destroy(uid)
        await self._forgotten(uid)
        return how

    async def _shut_down(self, uid: str, grace: int, interruption: Interruption) -> bool:
        """Whether the guest ended in its time."""
        next_press = self._clock()
        end = next_press + grace
        while (now := self._clock()) < end:
            interruption.check()
            if now >= next_press:
                await self._press(uid)
                next_press = now + PRESS_EVERY
            await self._pause(min(LOOK_EVERY, end - now))
            if not await self._runs(uid):
                return True
        return False

    async def _press(self, uid: str) -> None:
        try:
            await self._hypervisor.shutdown(uid)
        except HypervisorError as error:
            # No reason to give up: the VM may just be ending, force remains, and if libvirt is gone, the next look says so.
            log.warning("the power button could not be pressed", reason=error.reason, message=str(error))

    async def _forgotten(self, uid: str) -> None:
        """Wait until libvirt knows nothing of the VM any more."""
        end = self._clock() + END_WITHIN
        while uid in (known := await self._hypervisor.domains()):
            if self._clock() >= end:
                seen = "runs" if known[uid] else "does not run; if it was defined by hand, undefine it"
                message = (
                    f"libvirt still knows the VM's domain {END_WITHIN:.0f} s after it was to be gone: it {seen}; see its log on this node"
                )
                raise HypervisorError(reasons.HYPERVISOR_ERROR, message, retryable=True)
            await self._pause(LOOK_EVERY)

    async def _runs(self, uid: str) -> bool:
        return (await self._hypervisor.domains()).get(uid, False)
