"""Values for tests, made of a few words: a VM, a host that offers what it needs, its Placement, a task and its answer."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNodeStatus, InventoryItem, MachineType
from kubeferry.api.domain import Architecture, DiskFormat, DiskSource, Domain, DomainDisk, HostPath, KernelBoot
from kubeferry.api.meta import Condition, Meta, Status
from kubeferry.api.migration import Migration, MigrationSpec
from kubeferry.api.model import load
from kubeferry.api.names import FINALIZER
from kubeferry.api.placement import Placement, PlacementSpec
from kubeferry.api.role import Role, RunState
from kubeferry.api.scheduling import Scheduling
from kubeferry.api.task import HostTask, HostTaskStatus, TaskError, TaskPhase, TaskResult, TaskState
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.core import vm as core_vm
from kubeferry.core.observed import Choice, CreatePlacement, Host, NewTask, Observed, VmDecision

UID = "6f0d3c52-7a1e-4b7e-9a55-0d6b3f1c2e11"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    """The moment that many seconds past noon."""
    return NOON + timedelta(seconds=seconds)


def vm_body(*, nodes: tuple[str, ...] = ("a",), **template: Any) -> dict[str, Any]:
    """A VirtualMachine as the API server sends it: one disk per node named, each from an image there."""
    names = ["root", "data", "more"][: len(nodes)]
    return {
        "apiVersion": "kubeferry.io/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": "web-0", "namespace": "shop", "uid": UID, "generation": 1, "resourceVersion": "7"},
        "spec": {
            "template": {
                "spec": {
                    "domain": {
                        "cpu": {"cores": 2},
                        "memory": {"guest": "512Mi"},
                        "machine": {"type": "q35"},
                        "firmware": {"kernelBoot": {"kernelPath": "/images/vmlinuz"}},
                        "devices": {"disks": [{"name": name} for name in names]},
                    },
                    "volumes": [
                        {
                            "name": n,
                            "localDisk": {
                                "capacity": "1Gi",
                                "format": "raw",
                                "source": {"hostPath": {"node": node, "path": f"/images/{n}"}},
                            },
                        }
                        for n, node in zip(names, nodes, strict=True)
                    ],
                }
                | template
            }
        },
    }


def plugged(*interfaces: dict[str, Any]) -> dict[str, Any]:
    """What makes `vm` one of these interfaces, each in the bridge br0: for `vm(**plugged({"name": "a"}))`."""
    domain = vm_body()["spec"]["template"]["spec"]["domain"]
    domain["devices"]["interfaces"] = list(interfaces)
    return {"domain": domain, "networks": [{"name": each["name"], "bridge": {"name": "br0"}} for each in interfaces]}


def vm(*, nodes: tuple[str, ...] = ("a",), protected: bool = True, deleted: bool = False, **template: Any) -> VirtualMachine:
    """A VirtualMachine; `protected`: it has our finalizer."""
    made = load(VirtualMachine, vm_body(nodes=nodes, **template))
    meta = dataclasses.replace(made.metadata, finalizers=(FINALIZER,) if protected else (), deletion_timestamp=NOON if deleted else None)
    return dataclasses.replace(made, metadata=meta)


def host(
    name: str = "a",
    *,
    lease: bool | None = True,
    ready: bool = True,
    role: Role | None = None,
    state: RunState = RunState.RUNNING,
    host_id: str = "",
    epoch_id: str = "e1",
    allocated: int | None = 64 << 20,
) -> Host:
    """A hypervisor; `role`: it holds a copy of the VM in that role."""
    copy = InventoryItem(uid=UID, state=state, role=role or Role.NONE, epoch=1, epoch_id=epoch_id, allocated=allocated)
    inventory = () if role is None else (copy,)
    told = Condition(
        type=reasons.READY, status=Status.TRUE if ready else Status.FALSE, reason=reasons.AGENT_READY, last_transition_time=NOON
    )
    status = ComputeNodeStatus(
        host_id=host_id or f"host-{name}",
        boot_id=f"boot-{name}-1",
        protocol_version=1,
        agent_version="test",
        machine_types=(MachineType(name="q35", canonical="pc-q35-7.2"), MachineType(name="pc-q35-7.2")),
        inventory=inventory,
        conditions=(told,),
    )
    return Host(name=name, status=status, lease_fresh=lease)


def migration(name: str = "move", *, created: float = 0, deleted: bool = False, **spec: Any) -> Migration:
    """A Migration of the VM as applied; `created`: seconds past noon."""
    meta = Meta(
        name=name,
        namespace="shop",
        uid=f"uid-{name}",
        generation=1,
        resource_version="3",
        creation_timestamp=after(created),
        deletion_timestamp=after(created) if deleted else None,
    )
    return Migration(metadata=meta, spec=load(MigrationSpec, {"virtualMachine": {"name": "web-0"}} | spec))


def domain(**changes: Any) -> Domain:
    """What the VM runs with."""
    base = Domain(
        uuid=UID,
        name="shop_web-0",
        architecture=Architecture.AMD64,
        machine_type="pc-q35-7.2",
        cpu_cores=2,
        memory=512 << 20,
        kernel_boot=KernelBoot(kernel_path="/images/vmlinuz"),
        disks=(
            DomainDisk(name="root", format=DiskFormat.RAW, capacity=1 << 30, source=DiskSource(host_path=HostPath(path="/images/root"))),
        ),
    )
    return dataclasses.replace(base, **changes)


NOWHERE = "0 of 3 nodes are feasible: 3 NodeNotReady (a, b, c)"


def decided(seen: Observed, now: datetime, fresh_id: str = "e1", node: str | None = "a") -> VmDecision:
    """One decision, as the reconciler makes it; the scheduling pass answers with the node that it is asked for, or else with `node`."""
    decision = core_vm.step(seen, now, fresh_id)
    if (place := decision.place) is None:
        return decision
    choice = Choice(place.migration_uid, node and (place.target or node), NOWHERE, Scheduling(evaluated=3, feasible=int(node is not None)))
    return core_vm.step(dataclasses.replace(seen, choice=choice), now, fresh_id)


def placement(spec: PlacementSpec | None = None, **changes: Any) -> Placement:
    """The VM's Placement as stored: by default the one that a first pass writes, on host `a` at epoch `e1`."""
    if spec is None:
        decision = decided(observed(vm=vm(), hosts=(host(),)), NOON)
        assert isinstance(decision.placement, CreatePlacement)
        spec = decision.placement.spec
    return Placement(metadata=Meta(name=UID, uid="placement-1", resource_version="1"), spec=dataclasses.replace(spec, **changes))


def observed(**parts: Any) -> Observed:
    """What was read; nothing but what is named."""
    empty: dict[str, Any] = {"vm": None, "placement": None, "tasks": (), "hosts": ()}
    return Observed(**(empty | parts))


def task(new: NewTask, status: HostTaskStatus | None = None) -> HostTask:
    """A HostTask as stored."""
    return HostTask(metadata=Meta(name=new.name, uid=f"uid-{new.name}"), spec=new.spec, status=status)


def succeeded(state: TaskState) -> HostTaskStatus:
    """The answer of a host that did it."""
    return HostTaskStatus(phase=TaskPhase.SUCCEEDED, result=TaskResult(state=state))


def failed(reason: str, *, retryable: bool = False) -> HostTaskStatus:
    """The answer of a host that refused."""
    return HostTaskStatus(phase=TaskPhase.FAILED, error=TaskError(reason=reason, message=f"because of {reason}", retryable=retryable))
