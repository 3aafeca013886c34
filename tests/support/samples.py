"""Small valid objects for tests."""

from datetime import UTC, datetime
from typing import Any

from builders import decided

from kubeferry.api.computenode import ComputeNodeStatus
from kubeferry.api.model import load
from kubeferry.api.names import API_VERSION
from kubeferry.api.placement import PlacementSpec
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.core.observed import CreatePlacement, Host, Observed


def vm_body(name: str = "web-0", node: str = "n1", namespace: str = "shop") -> dict[str, Any]:
    """A VirtualMachine as a person applies it, its disk's source on `node`."""
    source = {"hostPath": {"node": node, "path": "/images/root.raw"}}
    template = {
        "domain": {
            "memory": {"guest": "64Mi"},
            "firmware": {"kernelBoot": {"kernelPath": "/images/vmlinuz"}},
            "devices": {"disks": [{"name": "root"}]},
        },
        "volumes": [{"name": "root", "localDisk": {"capacity": "1Gi", "format": "raw", "source": source}}],
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": {"spec": template}},
    }


def node_status(host: str = "h1", **more: Any) -> dict[str, Any]:
    """What a healthy node's agent tells."""
    ready = {"type": "Ready", "status": "True", "reason": "AgentReady", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {
        "hostId": host,
        "bootId": f"boot-of-{host}",
        "protocolVersion": 1,
        "agentVersion": "0.1.0",
        "hypervisor": {"type": "qemu", "version": "7.2.0"},
        "architecture": "amd64",
        "machineTypes": [{"name": "q35", "canonical": "pc-q35-7.2"}],
        "cpu": {"count": 4, "model": "qemu64"},
        "memory": 8 << 30,
        "instances": {"path": "/var/lib/kubeferry/instances", "total": 100 << 30, "free": 90 << 30, "filesystemId": "fs1"},
        "conditions": [ready],
    } | more


def migration_body(name: str = "web-0-move", vm: str = "web-0", namespace: str = "shop") -> dict[str, Any]:
    """A Migration as a person applies it."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Migration",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"virtualMachine": {"name": vm}},
    }


def node_body(name: str = "n1", ready: str = "True", **spec: Any) -> dict[str, Any]:
    """A Node as its kubelet registers it, far from whole."""
    conditions = [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready, "reason": "KubeletReady"}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": "10.0.0.0/24"} | spec,
        "status": {"conditions": conditions, "capacity": {"cpu": "4", "memory": "8Gi"}},
    }


def first_spec(vm: VirtualMachine) -> PlacementSpec:
    """The Placement that core decides on for a protected VM, on a healthy node n1."""
    host = Host("n1", load(ComputeNodeStatus, node_status()), lease_fresh=True)
    action = decided(Observed(vm, None, (), (host,)), datetime(2026, 1, 1, tzinfo=UTC), "epoch-1").placement
    assert isinstance(action, CreatePlacement)
    return action.spec
