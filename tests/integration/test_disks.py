"""What a VM's disks are made of and how it boots, on the real thing; and that all of it moves with it."""

import json
from typing import Any

import pytest
from lab_vm import Vm, migrate, vm_manifest, with_volume
from seed_files import seed_files
from watcher import Watcher

from kubeferry.api import reasons
from lab.guest import furnish_debian
from lab.lab import Lab
from lab.steps import run

IMAGES = "/var/lib/kubeferry/images"
BOOT_SECONDS = 240
"""For Debian on an emulated CPU: 40 s on an idle machine."""


def apply(lab: Lab, namespace: str, manifest: dict[str, Any]) -> Vm:
    lab.kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))
    return Vm(lab, namespace, manifest["metadata"]["name"])


def test_a_blank_disk_is_made_into_what_the_guest_wants_and_moves_with_it(lab: Lab, namespace: str) -> None:
    blank = {"capacity": "1Gi", "format": "qcow2", "source": {"blank": {}}}
    vm = apply(lab, namespace, with_volume(vm_manifest("blank"), "data", localDisk=blank))
    vm.wait_console("worker-1", "GUEST data boot=1 marker=blank")
    vm.wait_console("worker-1", "GUEST boot=1 marker=worker-1")
    with Watcher(vm.uid) as watcher:
        migration = migrate(vm, targetNode="worker-2")
        assert migration.target() == "worker-2"
        vm.wait_console("worker-2", "GUEST data boot=2 marker=blank")
        migration.decide("Confirm")
        assert migration.end() == ("Confirmed", "True", reasons.CONFIRMED)
    assert watcher.most == 1
    lies = {path.name: path for path in vm.directory("worker-2").iterdir()}
    assert lies.keys() == {"kernel", "initrd", "root.raw", "data.qcow2", "console.log"}
    data = json.loads(run(["qemu-img", "info", "-U", "-f", "qcow2", "--output", "json", lies["data.qcow2"]]).stdout)
    assert data["virtual-size"] == 1 << 30
    assert lies["data.qcow2"].stat().st_blocks * 512 < 256 << 20


USER_DATA = """\
#cloud-config
bootcmd:
- echo worker-1 > /marker; sync
- echo >> /boots
- echo GUEST boot=$(wc -l < /boots) > /dev/ttyS0
runcmd:
- echo GUEST first boot of $(hostname) > /dev/ttyS0
final_message: GUEST is up
"""


def debian(name: str) -> dict[str, Any]:
    """A VM of a disk that its BIOS boots, and of a seed."""
    manifest = vm_manifest(name, path=f"{IMAGES}/debian.img")
    spec = manifest["spec"]["template"]["spec"]
    del spec["domain"]["firmware"]
    spec["domain"]["memory"]["guest"] = "512Mi"
    spec["volumes"][0]["localDisk"]["capacity"] = "2Gi"
    spec["terminationGracePeriodSeconds"] = BOOT_SECONDS
    return with_volume(manifest, "seed", cloudInitNoCloud={"userData": USER_DATA})


@pytest.mark.timeout(1800)
def test_a_debian_is_booted_by_the_bios_set_up_by_its_seed_shut_down_gracefully_and_moved(lab: Lab, namespace: str) -> None:
    furnish_debian(lab.hosts["worker-1"].root / "images")
    vm = apply(lab, namespace, debian("debian"))
    vm.wait_console("worker-1", "GUEST boot=1", seconds=BOOT_SECONDS)
    vm.wait_console("worker-1", "GUEST first boot of debian", seconds=BOOT_SECONDS)
    vm.wait_console("worker-1", "GUEST is up", seconds=BOOT_SECONDS)
    seed = vm.directory("worker-1") / "seed.raw"
    assert seed_files(seed.read_bytes())["meta-data"].startswith(f"instance-id: {vm.uid}\n")
    with Watcher(vm.uid) as watcher:
        migration = migrate(vm, targetNode="worker-2")
        assert migration.target(seconds=2 * BOOT_SECONDS) == "worker-2"
        assert "reboot: Power down" in vm.console("worker-1")
        vm.wait_console("worker-2", "GUEST boot=2", seconds=BOOT_SECONDS)
        vm.wait_console("worker-2", "GUEST is up", seconds=BOOT_SECONDS)
        assert "GUEST first boot" not in vm.console("worker-2"), "for cloud-init it is another machine"
        assert (vm.directory("worker-2") / "seed.raw").read_bytes() == seed.read_bytes()
        migration.decide("Confirm")
        assert migration.end() == ("Confirmed", "True", reasons.CONFIRMED)
    assert watcher.most == 1
    assert {path.name for path in vm.directory("worker-2").iterdir()} == {"root.raw", "seed.raw", "console.log"}
