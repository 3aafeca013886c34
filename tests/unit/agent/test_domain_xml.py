import dataclasses
from typing import Any
from xml.etree import ElementTree

import pytest
from builders import UID, domain

from kubeferry.agent.virt.port import HypervisorError
from kubeferry.agent.virt.xml import render
from kubeferry.api import reasons
from kubeferry.api.domain import CloudInitSeed, DiskSource, Domain, DomainInterface, KernelBoot
from kubeferry.api.network import BridgeNetwork, LibvirtNetwork, NetworkSource, UserNetwork

DIRECTORY = f"/var/lib/kubeferry/instances/{UID}"


def rendered(value: Domain) -> ElementTree.Element:
    return ElementTree.fromstring(render(value, DIRECTORY, "qemu"))  # noqa: S314 - rendered here


def with_boot(**changes: Any) -> Domain:
    return domain(kernel_boot=KernelBoot(**{"kernel_path": "/images/vmlinuz"} | changes))


def with_disks(*names: str) -> Domain:
    return domain(disks=tuple(dataclasses.replace(domain().disks[0], name=name) for name in names))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("uuid", UID),
        ("name", "shop_web-0"),
        ("memory[@unit='b']", str(512 << 20)),
        ("vcpu", "2"),
        ("os/type[@arch='x86_64'][@machine='pc-q35-7.2']", "hvm"),
        ("os/kernel", f"{DIRECTORY}/kernel"),
        ("on_poweroff", "destroy"),
        ("on_reboot", "restart"),
        ("on_crash", "destroy"),
    ],
)
def test_the_domain_says(path: str, text: str) -> None:
    assert rendered(domain()).findtext(path) == text


@pytest.mark.parametrize(
    "path",
    [
        "features/acpi",
        "features/apic",
        "clock[@offset='utc']",
        "devices/disk[@type='file'][@device='disk']/driver[@name='qemu'][@type='raw'][@cache='none'][@discard='unmap']",
        f"devices/disk/source[@file='{DIRECTORY}/root.raw']",
        "devices/disk/backingStore",
        "devices/disk/target[@dev='vda'][@bus='virtio']",
        f"devices/serial[@type='pty']/log[@file='{DIRECTORY}/console.log'][@append='on']",
        "devices/console[@type='pty']/target[@type='serial'][@port='0']",
    ],
)
def test_the_domain_has(path: str) -> None:
    assert rendered(domain()).find(path) is not None


@pytest.mark.parametrize("domain_type", ["kvm", "qemu"])
def test_the_domain_type_is_the_hosts(domain_type: Any) -> None:
    assert ElementTree.fromstring(render(domain(), DIRECTORY, domain_type)).get("type") == domain_type  # noqa: S314 - rendered here


def test_the_initrd_and_the_command_line_are_the_copied_ones() -> None:
    boot = rendered(with_boot(initrd_path="/images/initrd.gz", kernel_args="console=ttyS0")).find("os")
    assert boot is not None
    assert (boot.findtext("initrd"), boot.findtext("cmdline")) == (f"{DIRECTORY}/initrd", "console=ttyS0")


@pytest.mark.parametrize("path", ["os/initrd", "os/cmdline", "devices/disk/boot", "devices/interface"])
def test_what_the_domain_does_not_name_is_left_out(path: str) -> None:
    assert rendered(domain()).find(path) is None


def test_disks_keep_their_order_up_to_the_sixteenth() -> None:
    names = [f"d{number}" for number in range(16)]
    disks = rendered(with_disks(*names)).findall("devices/disk")
    seen = [(disk.find("source").get("file"), disk.find("target").get("dev")) for disk in disks]  # type: ignore[union-attr]
    assert seen == [(f"{DIRECTORY}/{name}.raw", f"vd{letter}") for name, letter in zip(names, "abcdefghijklmnop", strict=True)]


def test_the_boot_order_is_the_disks() -> None:
    first = dataclasses.replace(domain().disks[0], boot_order=7)
    order = rendered(domain(disks=(first,))).find("devices/disk/boot")
    assert order is not None
    assert order.get("order") == "7"


def test_each_network_card_has_its_address_and_is_plugged_into_its_network_in_order() -> None:
    sources = (
        NetworkSource(libvirt=LibvirtNetwork(name="default")),
        NetworkSource(bridge=BridgeNetwork(name="br0")),
        NetworkSource(user=UserNetwork()),
        NetworkSource(bridge=BridgeNetwork(name="br1")),
    )
    cards = tuple(DomainInterface(name=f"n{i}", mac=f"02:00:00:00:00:0{i}", network=source) for i, source in enumerate(sources))
    found = rendered(domain(interfaces=cards)).findall("devices/interface")
    seen = [ElementTree.tostring(card, encoding="unicode") for card in found]
    model = '<model type="virtio" />'
    assert seen == [
        f'<interface type="network"><mac address="02:00:00:00:00:00" /><source network="default" />{model}</interface>',
        f'<interface type="bridge"><mac address="02:00:00:00:00:01" /><source bridge="br0" />{model}</interface>',
        f'<interface type="user"><mac address="02:00:00:00:00:02" />{model}</interface>',
        f'<interface type="bridge"><mac address="02:00:00:00:00:03" /><source bridge="br1" />{model}</interface>',
    ]


def by_bios(*names: str, **orders: int) -> Domain:
    """A VM without a kernel of its own, which has a seed if that is among the names of its disks."""
    root = domain().disks[0]
    seed = DiskSource(cloud_init_no_cloud=CloudInitSeed(local_hostname="web-0", user_data=""))
    disks = (
        dataclasses.replace(root, name=name, boot_order=orders.get(name), source=seed if name == "seed" else root.source) for name in names
    )
    return domain(kernel_boot=None, disks=tuple(disks))


def boot_order(value: Domain) -> dict[str, str | None]:
    """Each disk's image, and its place in the order of boot devices."""
    found = {}
    for disk in rendered(value).findall("devices/disk"):
        boot = disk.find("boot")
        image = disk.find("source").get("file", "").rpartition("/")[2]  # type: ignore[union-attr]
        found[image] = None if boot is None else boot.get("order")
    return found


def test_without_a_kernel_the_bios_boots() -> None:
    boot = rendered(by_bios("root")).find("os")
    assert boot is not None
    assert [element.tag for element in boot] == ["type"]


@pytest.mark.parametrize(
    ("value", "order"),
    [
        (by_bios("root", "data"), {"root.raw": "1", "data.raw": None}),
        (by_bios("seed", "root", "data"), {"seed.raw": None, "root.raw": "1", "data.raw": None}),
        (by_bios("root", "data", data=2), {"root.raw": None, "data.raw": "2"}),
        (by_bios("root", "data", data=1, root=2), {"root.raw": "2", "data.raw": "1"}),
        (by_bios("seed"), {"seed.raw": None}),
        (with_disks("root", "data"), {"root.raw": None, "data.raw": None}),
    ],
    ids=["the first", "the first that is no seed", "the named one", "the named ones", "none", "a kernel of its own"],
)
def test_the_bios_boots_from(value: Domain, order: dict[str, str | None]) -> None:
    assert boot_order(value) == order


def test_the_guest_only_reads_a_seed() -> None:
    disks = rendered(by_bios("root", "seed")).findall("devices/disk")
    assert [disk.find("readonly") is not None for disk in disks] == [False, True]
    assert all(disk.find("backingStore") is not None for disk in disks)


@pytest.mark.parametrize(
    "value",
    [
        with_boot(kernel_args="</cmdline></os><devices><hostdev/></devices>"),
        with_boot(kernel_args='a="<&>\'" ]]> <!-- &amp; é 漢 \U0001f680'),
    ],
    ids=["elements", "quotes"],
)
def test_what_an_owner_writes_stays_text(value: Domain) -> None:
    root = rendered(value)
    plain = {element.tag for element in rendered(with_boot(kernel_args="plain")).iter()}
    assert {element.tag for element in root.iter()} <= plain
    kind = root.find("os/type")
    assert kind is not None
    assert kind.get("machine") == value.machine_type
    assert value.kernel_boot is not None
    assert root.findtext("os/cmdline", "") == value.kernel_boot.kernel_args


@pytest.mark.parametrize("character", ["\uffff", "\ufffe"])
def test_a_character_that_xml_can_not_carry_is_refused(character: str) -> None:
    with pytest.raises(HypervisorError, match=f"U\\+{ord(character):04X}") as refused:
        render(domain(kernel_boot=KernelBoot(kernel_path="/k", kernel_args=f"a{character}b")), DIRECTORY, "qemu")
    assert refused.value.reason == reasons.HYPERVISOR_ERROR
