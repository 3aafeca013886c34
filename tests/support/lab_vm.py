"""VMs of the lab: as a user sees them, and what lies under them."""

import json
from pathlib import Path
from typing import Any

from lab.lab import Lab
from lab.steps import NotYet, wait_until


class Vm:
    """A VirtualMachine as a user sees it, and what lies under it as nobody but a test does."""

    def __init__(self, lab: Lab, namespace: str, name: str) -> None:
        self.lab = lab
        self.namespace = namespace
        self.name = name

    def body(self) -> dict[str, Any]:
        """The object as it is now."""
        found: dict[str, Any] = json.loads(self.lab.kubectl("get", "fvm", self.name, "-n", self.namespace, "-o", "json").stdout)
        return found

    @property
    def uid(self) -> str:
        return str(self.body()["metadata"]["uid"])

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.body().get("status", {})
        return status

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of a condition; empty words if it is not told yet."""
        told = next((c for c in self.status().get("conditions", []) if c["type"] == kind), {"status": "", "reason": ""})
        return told["status"], told["reason"]

    def wait(self, kind: str, status: str, reason: str, *, seconds: float = 60) -> None:
        """Wait until a condition is told so."""

        def told() -> None:
            if (seen := self.condition(kind)) != (status, reason):
                raise NotYet(f"{kind} is {seen}; {json.dumps(self.status())}")

        wait_until(f"{self.namespace}/{self.name}: {kind}={status}/{reason}", told, seconds=seconds, log=self.lab.log("controller"))

    def directory(self, node: str) -> Path:
        """Its instance directory, seen from outside of the host."""
        return self.lab.hosts[node].root / "instances" / self.uid

    def console(self, node: str) -> str:
        log = self.directory(node) / "console.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def wait_console(self, node: str, text: str, *, seconds: float = 60) -> None:
        """Wait for the guest's own words."""

        def said() -> None:
            if text not in (seen := self.console(node)):
                raise NotYet(f"the console ends with {seen[-300:]!r}")

        wait_until(f"{text!r} on the console of {self.name}", said, seconds=seconds, log=self.lab.log(f"agent-{node}"))


def vm_manifest(name: str, node: str = "worker-1", *, path: str = "/var/lib/kubeferry/images/guest.img") -> dict[str, Any]:
    """A VM of one disk with the lab's guest."""
    images = "/var/lib/kubeferry/images"
    boot = {"kernelPath": f"{images}/vmlinuz", "initrdPath": f"{images}/initramfs.gz", "kernelArgs": "console=ttyS0"}
    volume = {"capacity": "64Mi", "format": "raw", "source": {"hostPath": {"node": node, "path": path}}}
    return {
        "apiVersion": "kubeferry.io/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": name},
        "spec": {
            "template": {
                "spec": {
                    "domain": {"memory": {"guest": "256Mi"}, "firmware": {"kernelBoot": boot}, "devices": {"disks": [{"name": "root"}]}},
                    "volumes": [{"name": "root", "localDisk": volume}],
                }
            }
        },
    }


def create_vm(lab: Lab, namespace: str, name: str, node: str = "worker-1", **options: Any) -> Vm:
    """Apply a VM."""
    lab.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(vm_manifest(name, node, **options)))
    return Vm(lab, namespace, name)
