"""VMs and Migrations of the lab: as a user sees them, and what lies under them."""

import json
from pathlib import Path
from typing import Any

from kubeferry.api import reasons
from lab.lab import Lab
from lab.steps import LabError, NotYet, wait_until
from lab.witness import qemu_by_host

VIRSH = ("/usr/bin/virsh", "-c", "qemu:///system")


class Told:
    """A namespaced object with conditions, as a user sees it."""

    kind: str
    """As for kubectl."""

    def __init__(self, lab: Lab, namespace: str, name: str) -> None:
        self.lab = lab
        self.namespace = namespace
        self.name = name

    def kubectl(self, verb: str, *words: str) -> str:
        """What kubectl prints when it does this with the object."""
        return self.lab.kubectl(verb, self.kind, self.name, "-n", self.namespace, *words).stdout

    def body(self) -> dict[str, Any]:
        """The object as it is now."""
        found: dict[str, Any] = json.loads(self.kubectl("get", "-o", "json"))
        return found

    @property
    def uid(self) -> str:
        return str(self.body()["metadata"]["uid"])

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.body().get("status", {})
        return status

    def told(self, kind: str) -> dict[str, str]:
        """A whole condition; empty words if it is not told yet."""
        nothing = {"status": "", "reason": "", "message": ""}
        return next((c for c in self.status().get("conditions", []) if c["type"] == kind), nothing)

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of a condition; empty words if it is not told yet."""
        told = self.told(kind)
        return told["status"], told["reason"]

    def wait(self, kind: str, status: str, reason: str, *, seconds: float = 60) -> None:
        """Wait until a condition is told so."""

        def told() -> None:
            if (seen := self.condition(kind)) != (status, reason):
                raise NotYet(f"{kind} is {seen}; {json.dumps(self.status())}")

        wait_until(f"{self.namespace}/{self.name}: {kind}={status}/{reason}", told, seconds=seconds, log=self.lab.log("controller"))


class Vm(Told):
    """A VirtualMachine as a user sees it, and what lies under it as nobody but a test does."""

    kind = "fvm"

    def __init__(self, lab: Lab, namespace: str, name: str) -> None:
        super().__init__(lab, namespace, name)
        self._uid: str | None = None

    @property
    def uid(self) -> str:
        self._uid = self._uid or super().uid
        return self._uid

    def placement(self) -> dict[str, Any]:
        """The spec of its Placement."""
        spec: dict[str, Any] = json.loads(self.lab.kubectl("get", "placement", self.uid, "-o", "json").stdout)["spec"]
        return spec

    def wait_one_copy(self, node: str) -> None:
        """Wait until the Placement tells of one copy only, on that node, and of no lock."""

        def one() -> None:
            spec = self.placement()
            nodes = [copy["node"] for copy in spec["copies"]]
            if nodes != [node] or "lock" in spec or spec["nodeName"] != node:
                raise NotYet(f"copies on {nodes}, lock {spec.get('lock')}, nodeName {spec['nodeName']!r}")

        wait_until(f"one copy of {self.name}, on {node}", one, seconds=90, log=self.lab.log("controller"))

    def want(self, strategy: str) -> None:
        """Always or Halted, by the command that the documents show."""
        self.kubectl("patch", "--type=merge", "-p", json.dumps({"spec": {"runStrategy": strategy}}))

    def wait_status(self, status: str) -> None:
        """Wait until its state is told in that word."""

        def told() -> None:
            if (seen := self.status().get("printableStatus")) != status:
                raise NotYet(f"it is {seen}")

        wait_until(f"{self.namespace}/{self.name}: {status}", told, seconds=90, log=self.lab.log("controller"))

    def processes(self) -> dict[str, list[int]]:
        """Pids of its living QEMU processes by host, as seen from outside."""
        return qemu_by_host(self.lab.hosts, self.uid)

    def directory(self, node: str) -> Path:
        """Its instance directory, seen from outside of the host."""
        return self.lab.hosts[node].root / "instances" / self.uid

    def disk(self, node: str) -> Path:
        """Its disk on a host."""
        return self.directory(node) / "root.raw"

    def trash(self, node: str) -> Path:
        """Where a host put the one copy that it was to discard."""
        (found,) = (self.lab.hosts[node].root / "instances" / ".trash").glob(f"{self.uid}-*")
        return found

    def is_known(self, node: str) -> bool:
        """Whether a host's libvirt knows a domain of it, running or not."""
        return self.uid in self.lab.hosts[node].run([*VIRSH, "list", "--all", "--uuid"]).stdout

    def inventory(self, node: str) -> dict[str, Any] | None:
        """What a host's ComputeNode tells of its copy."""
        told = json.loads(self.lab.kubectl("get", "computenode", node, "-o", "json").stdout)["status"].get("inventory", [])
        return next((item for item in told if item["uid"] == self.uid), None)

    def console(self, node: str) -> str:
        log = self.directory(node) / "console.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def wait_console(self, node: str, text: str, *, seconds: float = 60) -> None:
        """Wait for the guest's own words."""

        def said() -> None:
            if text not in (seen := self.console(node)):
                raise NotYet(f"the console ends with {seen[-300:]!r}")

        wait_until(f"{text!r} on the console of {self.name}", said, seconds=seconds, log=self.lab.log(f"agent-{node}"))


class Migration(Told):
    """A Migration as a user sees it."""

    kind = "fmig"

    def decide(self, value: str) -> None:
        """Confirm or Revert, by the command that the documents show."""
        self.kubectl("patch", "--type=merge", "-p", json.dumps({"spec": {"decision": value}}))

    def target(self, *, seconds: float = 120) -> str:
        """Wait until a decision is awaited, and tell the node that the VM was moved to.

        Raises:
            LabError: the migration has stopped, or does not get there.
        """

        def awaited() -> str:
            status = self.status()
            told = {c["type"]: c for c in status.get("conditions", [])}
            if reasons.AWAITING_DECISION in told and told[reasons.AWAITING_DECISION]["status"] == "True":
                return str(status["targetNode"])
            if reasons.NEEDS_ATTENTION in told and told[reasons.NEEDS_ATTENTION]["status"] == "True":
                raise LabError(f"{self.namespace}/{self.name} needs attention: {told[reasons.NEEDS_ATTENTION]}")
            raise NotYet(json.dumps(status))

        what = f"{self.namespace}/{self.name}: {reasons.AWAITING_DECISION}"
        return wait_until(what, awaited, seconds=seconds, log=self.lab.log("controller"))

    def in_mid_copy(self) -> int:
        """Wait until part of the disks was sent, and not all; how many bytes.

        Raises:
            LabError: it does not get there.
        """

        def under_way() -> int:
            transfer = self.status().get("transfer", {})
            if not 0 < transfer.get("bytesDone", 0) < transfer.get("bytesTotal", 0):
                raise NotYet(json.dumps(self.status()))
            return int(transfer["bytesDone"])

        return wait_until(f"{self.namespace}/{self.name} in mid-copy", under_way, seconds=60, log=self.lab.log("controller"))

    def end(self) -> tuple[str, str, str]:
        """Wait until it has ended; the phase, and status and reason of Succeeded."""

        def ended() -> None:
            if self.condition(reasons.FINISHED)[0] != "True":
                raise NotYet(json.dumps(self.status()))

        wait_until(f"{self.namespace}/{self.name}: Finished", ended, seconds=120, log=self.lab.log("controller"))
        return str(self.status()["phase"]), *self.condition(reasons.SUCCEEDED)


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


def with_data(manifest: dict[str, Any], node: str, root: str, data: str) -> dict[str, Any]:
    """The VM with a qcow2 image as its root disk, and a second disk, raw."""
    spec = manifest["spec"]["template"]["spec"]
    spec["domain"]["devices"]["disks"].append({"name": "data"})
    images = (("root", root, "qcow2", "96Mi"), ("data", data, "raw", "40Mi"))
    spec["volumes"] = [
        {"name": name, "localDisk": {"capacity": capacity, "format": kind, "source": {"hostPath": {"node": node, "path": path}}}}
        for name, path, kind, capacity in images
    ]
    return manifest


def with_volume(manifest: dict[str, Any], name: str, **volume: Any) -> dict[str, Any]:
    """The VM with one more disk, of that volume."""
    spec = manifest["spec"]["template"]["spec"]
    spec["domain"]["devices"]["disks"].append({"name": name})
    spec["volumes"].append({"name": name} | volume)
    return manifest


def with_networks(manifest: dict[str, Any], *args: str, **networks: dict[str, Any]) -> dict[str, Any]:
    """The VM with a network card for each of these, its kernel with these arguments beside its own."""
    spec = manifest["spec"]["template"]["spec"]
    spec["domain"]["devices"]["interfaces"] = [{"name": name} for name in networks]
    spec["networks"] = [{"name": name} | source for name, source in networks.items()]
    boot = spec["domain"]["firmware"]["kernelBoot"]
    boot["kernelArgs"] = " ".join([boot["kernelArgs"], *args])
    return manifest


def create_vm(lab: Lab, namespace: str, name: str, node: str = "worker-1", *, run_strategy: str = "Always", **options: Any) -> Vm:
    """Apply a VM."""
    manifest = vm_manifest(name, node, **options)
    manifest["spec"]["runStrategy"] = run_strategy
    lab.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))
    return Vm(lab, namespace, name)


def boot_vm(lab: Lab, namespace: str, name: str, node: str) -> Vm:
    """Apply a VM, and wait until its guest was heard."""
    vm = create_vm(lab, namespace, name, node)
    vm.wait(reasons.READY, "True", reasons.RUNNING)
    vm.wait_console(node, f"GUEST boot=1 marker={node}")
    return vm


def migrate(vm: Vm, name: str = "", **spec: Any) -> Migration:
    """Create a Migration of a VM, by the VM's name if by no other."""
    name = name or vm.name
    manifest = {
        "apiVersion": "kubeferry.io/v1alpha1",
        "kind": "Migration",
        "metadata": {"name": name},
        "spec": {"virtualMachine": {"name": vm.name}} | spec,
    }
    vm.lab.kubectl("create", "-n", vm.namespace, "-f", "-", stdin=json.dumps(manifest))
    return Migration(vm.lab, vm.namespace, name)
