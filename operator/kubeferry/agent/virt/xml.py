"""The domain XML that libvirt runs (https://libvirt.org/formatdomain.html), made from the API's Domain alone."""

import re
from string import ascii_lowercase
from xml.etree.ElementTree import Element, SubElement, tostring

from kubeferry.agent.storage.layout import CONSOLE_LOG, INITRD, KERNEL, disk_file
from kubeferry.agent.virt.capabilities import libvirt_architecture
from kubeferry.agent.virt.port import DomainType, HypervisorError
from kubeferry.api import reasons
from kubeferry.api.domain import Domain, DomainInterface

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 can't carry, not even escaped (its production `Char`)."""


def render(domain: Domain, directory: str, domain_type: DomainType) -> str:
    """The domain XML.

    Args:
        domain: what the VM runs with.
        directory: its instance directory, absolute, as libvirt sees it.
        domain_type: how the guest's CPU is run.

    Raises:
        HypervisorError: a text holds a character that XML can't carry.
    """
    root = Element("domain", type=domain_type)
    _text(root, "uuid", domain.uuid)
    _text(root, "name", domain.name)
    _text(root, "memory", str(domain.memory), unit="b")
    _text(root, "vcpu", str(domain.cpu_cores))
    _boot(root, domain, directory)
    features = SubElement(root, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    SubElement(root, "clock", offset="utc")
    # A guest that powers itself off, or breaks, must be gone from libvirt: only the start gate starts it again.
    _text(root, "on_poweroff", "destroy")
    _text(root, "on_reboot", "restart")
    _text(root, "on_crash", "destroy")
    _devices(root, domain, directory)
    xml = tostring(root, encoding="unicode")
    if bad := _NO_XML.search(xml):
        raise HypervisorError(
            reasons.HYPERVISOR_ERROR,
            f"the VM's domain holds the character U+{ord(bad[0]):04X}, which XML can't carry: take it out of its spec (kernelArgs?)",
        )
    return xml


def _text(parent: Element, tag: str, text: str, **attributes: str) -> None:
    SubElement(parent, tag, attributes).text = text


def _boot(root: Element, domain: Domain, directory: str) -> None:
    boot = SubElement(root, "os")
    _text(boot, "type", "hvm", arch=libvirt_architecture(domain.architecture), machine=domain.machine_type)
    if domain.kernel_boot is None:
        return
    _text(boot, "kernel", f"{directory}/{KERNEL}")
    if domain.kernel_boot.initrd_path is not None:
        _text(boot, "initrd", f"{directory}/{INITRD}")
    if domain.kernel_boot.kernel_args:
        _text(boot, "cmdline", domain.kernel_boot.kernel_args)


def _boot_orders(domain: Domain) -> dict[str, int]:
    """Places in the order of boot devices, by disk: if the BIOS boots and no disk has one, the first that is no seed boots."""
    named = {disk.name: disk.boot_order for disk in domain.disks if disk.boot_order is not None}
    if named or domain.kernel_boot is not None:
        return named
    return {disk.name: 1 for disk in [disk for disk in domain.disks if not disk.is_seed][:1]}


def _devices(root: Element, domain: Domain, directory: str) -> None:
    devices = SubElement(root, "devices")
    orders = _boot_orders(domain)
    for letter, disk in zip(ascii_lowercase, domain.disks, strict=False):
        element = SubElement(devices, "disk", type="file", device="disk")
        SubElement(element, "driver", name="qemu", type=disk.format.value, cache="none", discard="unmap")
        SubElement(element, "source", file=f"{directory}/{disk_file(disk)}")
        SubElement(element, "backingStore")  # empty: none, whatever the image's header says
        SubElement(element, "target", dev=f"vd{letter}", bus=disk.bus.value)
        if disk.is_seed:
            SubElement(element, "readonly")
        if disk.name in orders:
            SubElement(element, "boot", order=str(orders[disk.name]))
    for interface in domain.interfaces:
        _interface(devices, interface)
    serial = SubElement(devices, "serial", type="pty")
    SubElement(serial, "log", file=f"{directory}/{CONSOLE_LOG}", append="on")
    SubElement(serial, "target", port="0")
    console = SubElement(devices, "console", type="pty")
    SubElement(console, "target", type="serial", port="0")


def _interface(devices: Element, interface: DomainInterface) -> None:
    network = interface.network
    kind = "bridge" if network.bridge is not None else "network" if network.libvirt is not None else "user"
    element = SubElement(devices, "interface", type=kind)
    SubElement(element, "mac", address=interface.mac)
    if network.bridge is not None:
        SubElement(element, "source", bridge=network.bridge.name)
    if network.libvirt is not None:
        SubElement(element, "source", network=network.libvirt.name)
    SubElement(element, "model", type=interface.model.value)
