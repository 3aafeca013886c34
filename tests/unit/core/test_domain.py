"""From what a person applied to what runs."""

from typing import Any

import pytest
from builders import host, vm

from kubeferry.api import reasons
from kubeferry.api.domain import Blank, CloudInitSeed, DiskFormat, DiskSource, Domain, HostPath
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.core.domain import SEED_BYTES, SpecError, pinned_node, render

IMAGE = {"hostPath": {"node": "a", "path": "/images/root"}}
USER_DATA = "#cloud-config\n"


def disk(source: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"localDisk": {"capacity": "1Gi", "format": "qcow2", "source": IMAGE if source is None else source}}


def seed(**more: str) -> dict[str, Any]:
    return {"cloudInitNoCloud": {"userData": USER_DATA} | more}


def machine(firmware: dict[str, Any] | None = None, **volumes: dict[str, Any]) -> VirtualMachine:
    """A VM with these volumes, in this order."""
    booted = {} if firmware is None else {"firmware": firmware}
    devices = {"disks": [{"name": name} for name in volumes]}
    return vm(
        domain={"memory": {"guest": "512Mi"}, "devices": devices} | booted, volumes=[{"name": n} | body for n, body in volumes.items()]
    )


def rendered(value: VirtualMachine) -> Domain:
    return render(value, host().status)


def test_a_disk_is_a_copy_of_an_image_blank_or_a_seed() -> None:
    disks = rendered(machine(root=disk(), data=disk({"blank": {}}), seed=seed(networkData="version: 2"))).disks
    assert [(d.name, d.format, d.capacity, d.source) for d in disks] == [
        ("root", DiskFormat.QCOW2, 1 << 30, DiskSource(host_path=HostPath(path="/images/root"))),
        ("data", DiskFormat.QCOW2, 1 << 30, DiskSource(blank=Blank())),
        (
            "seed",
            DiskFormat.RAW,
            SEED_BYTES,
            DiskSource(
                cloud_init_no_cloud=CloudInitSeed(local_hostname="web-0", user_data=USER_DATA, network_data="version: 2"),
            ),
        ),
    ]


@pytest.mark.parametrize("firmware", [None, {}])
def test_without_a_kernel_the_bios_boots(firmware: dict[str, Any] | None) -> None:
    assert rendered(machine(firmware, root=disk())).kernel_boot is None


@pytest.mark.parametrize(
    ("volume", "says"),
    [
        ({}, "volume root must be exactly one of localDisk and cloudInitNoCloud"),
        (disk() | seed(), "volume root must be exactly one of localDisk and cloudInitNoCloud"),
        (disk({}), "volume root must have exactly one source"),
        (disk(IMAGE | {"blank": {}}), "volume root must have exactly one source"),
    ],
    ids=["no kind", "two kinds", "no source", "two sources"],
)
def test_what_is_not_one_thing_is_refused_whoever_let_it_pass(volume: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says) as refused:
        rendered(machine(root=volume))
    assert refused.value.reason == reasons.INVALID_SPEC


def test_a_capacity_that_qemu_would_round_up_is_refused() -> None:
    odd = disk({"blank": {}})
    odd["localDisk"]["capacity"] = "100M"
    with pytest.raises(SpecError, match="its capacity of 100000000 is no multiple of 512") as refused:
        rendered(machine(root=odd))
    assert refused.value.reason == reasons.INVALID_SPEC


def test_only_an_image_pins_the_vm_to_a_node() -> None:
    assert pinned_node(machine(data=disk({"blank": {}}), root=disk(), seed=seed())) == "a"
    assert pinned_node(machine(data=disk({"blank": {}}), seed=seed())) is None
