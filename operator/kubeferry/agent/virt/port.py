"""What the agent asks of a hypervisor; `libvirt_port` answers with the real one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from kubeferry.api.computenode import MachineType, NodeCpu
from kubeferry.api.domain import Architecture

DomainType = Literal["kvm", "qemu"]
"""How a guest's CPU is run: by the processor (kvm), or emulated (qemu)."""


class HypervisorError(Exception):
    """The hypervisor refused (`HypervisorError`) or does not answer (`HypervisorUnreachable`, `HypervisorHung`)."""

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        """A reason of `kubeferry.api.reasons`."""
        self.retryable = retryable
        """Whether the same may go well later without anybody's help."""


class ExpiredError(Exception):
    """What allowed a start no longer did when it would have been made; nothing was started."""


@dataclass(frozen=True, slots=True)
class HypervisorFacts:
    """What a hypervisor is and offers."""

    domain_type: DomainType
    version: str
    """Version of QEMU: 7.2.22."""
    architecture: Architecture
    machine_types: tuple[MachineType, ...]
    """By name; an alias tells what it stands for."""
    cpu: NodeCpu
    memory: int
    """Bytes of the host's memory."""
    networks: tuple[str, ...]
    """Names of libvirt's active networks, in order."""


class Hypervisor(Protocol):
    """One host's hypervisor. Every call blocks, and may be made from any thread."""

    def facts(self) -> HypervisorFacts:
        """What it is and offers.

        Raises:
            HypervisorError: it does not answer, or does not offer the configured domain type.
        """

    def domains(self) -> Mapping[str, bool]:
        """Every domain that it knows, whoever made it: uuid to whether it has a process, paused ones too.

        Raises:
            HypervisorError: it does not answer.
        """

    def create(self, xml: str, allowed: Callable[[], bool]) -> None:
        """Start a transient domain (libvirt's createXML): nothing is left of it once it has stopped.

        Args:
            xml: the domain.
            allowed: asked at the last moment before the start, when everything that may take its time is done.

        Raises:
            ExpiredError: `allowed` said no.
            HypervisorError: a domain of that uuid or name is known, running or not; the XML is refused; QEMU ended.
                If the hypervisor became unreachable meanwhile, the domain may run all the same: look at `domains`.
        """

    def shutdown(self, uuid: str) -> None:
        """Press a domain's power button (ACPI); the guest may not listen. Of one that has no process, or is not known, nothing happens.

        Raises:
            HypervisorError: it does not answer, or refuses.
        """

    def destroy(self, uuid: str) -> None:
        """End a domain's process at once, as a power cut does. Of one that has none, or is not known, nothing happens.

        Raises:
            HypervisorError: it does not answer, or the process could not be ended.
        """

    def watch(self, callback: Callable[[str], None]) -> None:
        """Call back with a domain's uuid at each event of its life, from another thread.

        Events are hints: those of a time without connection are lost. After a connection was lost, they come again
        from the next call of any method on.

        Raises:
            HypervisorError: it does not answer; the callback is kept, and registered by the next call that gets through.
        """
