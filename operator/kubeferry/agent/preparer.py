"""Makes a host ready to take a VM that comes from another: everything that would keep it from running here is found now."""

import structlog

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.machine import Machine
from kubeferry.agent.networks import require_networks
from kubeferry.agent.reserver import Reserver
from kubeferry.agent.storage.create import MARGIN, own_files
from kubeferry.agent.virt.port import HypervisorFacts
from kubeferry.api import reasons
from kubeferry.api.domain import Domain
from kubeferry.core.journal import Journal

log = structlog.get_logger(__name__)


class Preparer:
    """Carries out `Effect.RESERVE`."""

    def __init__(self, machine: Machine, reserver: Reserver) -> None:
        self._machine = machine
        self._reserver = reserver

    async def prepare(self, journal: Journal, disk_bytes: int) -> None:
        """Check that the VM could run here, and reserve what it needs; its journal is INCOMING afterwards.

        Args:
            journal: INCOMING, with domain and source, as the role table wants it written.
            disk_bytes: what the VM's files occupy at the source, in bytes.

        Raises:
            RefusedError: another architecture, a machine type that is not offered, a network that the VM can't be plugged into, no
                room, or a domain of that uuid is known to the hypervisor. Nothing was journaled, as with every other error.
            StorageError: `ForeignFiles`: something lies where the VM's files would; or it can't be told.
            HypervisorError: the hypervisor does not answer.
        """

        def needed(domain: Domain, facts: HypervisorFacts) -> int:
            own_files(self._machine.settings.instances_path, domain.uuid, ())  # the journal is new: nothing here is the VM's own
            _check_kind(domain, facts)
            require_networks(domain, self._machine.settings.allow.bridges, facts.networks)
            return disk_bytes + MARGIN

        held = await self._reserver.reserve(journal, needed)
        log.info("prepared for a VM", source=held.source, disk_bytes=disk_bytes)


def _check_kind(domain: Domain, facts: HypervisorFacts) -> None:
    if domain.architecture.value != facts.architecture.value:
        message = f"the VM is for {domain.architecture} CPUs, this host's is {facts.architecture}: take another host"
        raise RefusedError(reasons.ARCHITECTURE_MISMATCH, message)
    # Not by alias: the same one stands for another machine on a host with another QEMU.
    offered = {machine.canonical or machine.name for machine in facts.machine_types}
    if domain.machine_type not in offered:
        message = f"the VM's machine type {domain.machine_type} is not offered by QEMU {facts.version} here: take a host that offers it"
        raise RefusedError(reasons.MACHINE_TYPE_UNAVAILABLE, message)
