"""What the lab puts into its cluster: kubeferry's manifests, a Node per host, and an identity for each part of kubeferry."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from lab import kubeconfig
from lab.controlplane import ControlPlane
from lab.processes import Processes
from lab.steps import LabError

NAMESPACE = "kubeferry-system"
CONTROLLER, AGENT = "kubeferry-controller", "kubeferry-agent"
ADMIN = "admin"
TOKEN_DURATION = "24h"  # noqa: S105 - a duration
KUBECTL_SECONDS = 60.0
COLLECTION_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Manifests:
    """Files to apply, in this order: the CustomResourceDefinitions, then namespace, service accounts, rights and policies."""

    crds: Path
    rest: Path


class Cluster:
    """The content of a control plane that is ready.

    Args:
        control_plane: a started one.
        processes: of the same lab.
    """

    def __init__(self, control_plane: ControlPlane, processes: Processes) -> None:
        self._control_plane = control_plane
        self._processes = processes
        self._kubeconfigs = {ADMIN: control_plane.kubeconfig}

    def kubeconfig(self, identity: str) -> Path:
        """The kubeconfig of `admin`, of `controller`, by its host's name of an agent, or of an identity that was added.

        Raises:
            LabError: no such identity.
        """
        try:
            return self._kubeconfigs[identity]
        except KeyError:
            raise LabError(f"no identity {identity!r}, only {', '.join(self._kubeconfigs)}") from None

    def kubectl(
        self, *arguments: str, as_: str = ADMIN, stdin: str | None = None, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run kubectl as an identity.

        Raises:
            LabError: with `check`, it failed; without, only if it took longer than a minute.
        """
        command = ["kubectl", *arguments]
        try:
            done = subprocess.run(
                [self._control_plane.tools / "kubectl", *arguments],
                env=self._environment(as_),
                input=stdin,
                capture_output=True,
                text=True,
                timeout=KUBECTL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{' '.join(command)}: not done within {KUBECTL_SECONDS:g} s") from error
        if check and done.returncode != 0:
            raise LabError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
        return done

    def install(self, manifests: Manifests) -> None:
        """Apply the manifests; the collections of all CustomResourceDefinitions can be listed after that.

        Raises:
            LabError: kubectl failed, or a collection was not there in time.
        """
        self._own_kubectl("apply", "--server-side", "--filename", str(manifests.crds))
        with manifests.crds.open() as file:
            paths = collections([manifest for manifest in yaml.safe_load_all(file) if manifest])
        # Established is not enough: a collection's storage is made on its first request, and answers 429 meanwhile.
        for path in paths:
            read = partial(self._control_plane.api().get, path)
            self._control_plane.wait_until(f"the collection {path}", read, seconds=COLLECTION_SECONDS)
        self._own_kubectl("apply", "--server-side", "--filename", str(manifests.rest))

    def add_nodes(self, addresses: Mapping[str, str]) -> None:
        """Create a Ready Node for each host, given by name and address.

        Raises:
            LabError: kubectl failed.
        """
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        nodes = [node(name, address, now) for name, address in addresses.items()]
        self._own_kubectl("create", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": nodes}))

    def add_identities(self, hosts: Sequence[str]) -> None:
        """Make the kubeconfigs of the controller and of the agent of each host, whose Nodes exist.

        An agent's token is bound to its Node, as a pod's would be: the API server then knows which node's agent it talks to.

        Raises:
            LabError: kubectl failed.
        """
        accounts = {"controller": (CONTROLLER, None), **{host: (AGENT, host) for host in hosts}}
        with ThreadPoolExecutor() as pool:
            made = [pool.submit(self.add_identity, name, account, NAMESPACE, node=node) for name, (account, node) in accounts.items()]
        for identity in made:
            identity.result()

    def add_identity(self, identity: str, account: str, namespace: str, *, node: str | None = None) -> None:
        """Make the kubeconfig of a ServiceAccount, which exists.

        Args:
            identity: what the lab calls it.
            account: the ServiceAccount's name.
            namespace: the ServiceAccount's.
            node: the Node that its token is bound to, as a pod's would be; None: it is bound to none.

        Raises:
            LabError: another identity is called so, or kubectl failed.
        """
        if identity in self._kubeconfigs:
            raise LabError(f"there is an identity {identity!r} already")
        bound = () if node is None else ("--bound-object-kind", "Node", "--bound-object-name", node)
        token = self._own_kubectl("create", "token", account, "--namespace", namespace, "--duration", TOKEN_DURATION, *bound).strip()
        path = self._control_plane.directory / f"{identity}.kubeconfig"
        kubeconfig.by_token(path, self._control_plane.server, self._control_plane.authority, token)
        self._kubeconfigs[identity] = path

    def _own_kubectl(self, *arguments: str, stdin: str = "") -> str:
        argv: list[str | Path] = [self._control_plane.tools / "kubectl", *arguments]
        return self._processes.run(argv, seconds=KUBECTL_SECONDS, stdin=stdin, env=self._environment(ADMIN))

    def _environment(self, identity: str) -> dict[str, str]:
        # The cache is named after the server's address, which a later lab may have: not in the user's home.
        cache = self._control_plane.directory / "kubectl-cache"
        return os.environ | {"KUBECONFIG": str(self.kubeconfig(identity)), "KUBECACHEDIR": str(cache)}


def collections(manifests: Sequence[Mapping[str, Any]]) -> list[str]:
    """The API paths of the collections of every served version of each CustomResourceDefinition among the manifests."""
    return [
        f"/apis/{crd['spec']['group']}/{version['name']}/{crd['spec']['names']['plural']}"
        for crd in manifests
        if crd["kind"] == "CustomResourceDefinition"
        for version in crd["spec"]["versions"]
        if version["served"]
    ]


def node(name: str, address: str, now: str) -> dict[str, Any]:
    """The Node of a host, as a kubelet would register it, Ready since `now` (RFC 3339)."""
    labels = {
        "kubeferry.io/hypervisor": "true",
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux",
    }
    resources = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Lab",
        "message": "the lab has no kubelets",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    addresses = [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]
    status = {"capacity": resources, "allocatable": resources, "conditions": [ready], "addresses": addresses}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status}
