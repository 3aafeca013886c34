"""libvirt's capabilities XML (`virConnectGetCapabilities`), as far as scheduling needs it."""

from dataclasses import dataclass
from xml.etree import ElementTree

from kubeferry.agent.virt.port import DomainType, HypervisorError
from kubeferry.api import reasons
from kubeferry.api.computenode import MachineType
from kubeferry.api.domain import Architecture

_ARCHITECTURES = {"x86_64": Architecture.AMD64}
"""Architectures as libvirt names them."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a host can run."""

    architecture: Architecture
    cpu_model: str
    machine_types: tuple[MachineType, ...]


def libvirt_architecture(architecture: Architecture) -> str:
    """The architecture as libvirt names it (x86_64)."""
    return next(name for name, known in _ARCHITECTURES.items() if known == architecture)


def parse_capabilities(xml: str, domain_type: DomainType) -> Capabilities:
    """What the host can run with that domain type, in its own architecture.

    Raises:
        HypervisorError: the architecture is not supported, or the domain type is not offered.
    """
    root = ElementTree.fromstring(xml)  # noqa: S314 - libvirtd wrote it, which has more power over this host than the agent
    name = root.findtext("host/cpu/arch", "")
    if name not in _ARCHITECTURES:
        expected = ", ".join(_ARCHITECTURES)
        raise HypervisorError(
            reasons.HYPERVISOR_ERROR,
            f"the host's architecture is {name!r}, expected one of: {expected}; take the hypervisor label off this node",
        )
    guest = _guest(root, name, domain_type)
    machines = (
        MachineType(name=machine.text or "", canonical=machine.get("canonical"))
        for machine in sorted(guest.iterfind("arch/machine"), key=lambda machine: machine.text or "")
    )
    return Capabilities(
        architecture=_ARCHITECTURES[name],
        cpu_model=root.findtext("host/cpu/model", "unknown"),
        machine_types=tuple(machines),
    )


def _guest(root: ElementTree.Element, architecture: str, domain_type: DomainType) -> ElementTree.Element:
    offered: set[str] = set()
    for guest in root.iterfind("guest"):
        arch = guest.find("arch")
        if guest.findtext("os_type") != "hvm" or arch is None or arch.get("name") != architecture:
            continue
        types = {domain.get("type", "") for domain in arch.iterfind("domain")}
        if domain_type in types:
            return guest
        offered |= types
    raise HypervisorError(
        reasons.HYPERVISOR_ERROR,
        f"libvirt offers the domain types {sorted(offered)} for {architecture} guests, but {domain_type!r} is configured; "
        f"install QEMU for {architecture}, load the kvm module, or configure a type that is offered",
    )
