"""Who calls the lab's API server: people with roles, agents of nodes, each with a token of its own."""

import json
from collections.abc import Mapping
from typing import Any

from samples import first_spec, vm_body

from kubeferry.api.model import dump, load
from kubeferry.api.names import AGENT_ACCOUNT, FINALIZER, GROUP, SYSTEM_NAMESPACE
from kubeferry.api.virtualmachine import VirtualMachine
from lab.lab import Lab
from lab.steps import NotYet, wait_until

RBAC = "rbac.authorization.k8s.io"
Right = tuple[str, str, str]
"""API group, resource and verb."""


READ = ("get", "list", "watch")
CHANGE = ("update", "patch")
OWN = ("placements", "hosttasks", "computenodes")
"""The kinds that are the operator's own."""
TIMEOUT: dict[str, Any] = {"decisionTimeoutSeconds": 60, "onDecisionTimeout": "Revert"}
FENCED = {"spec": {"fence": {"bootId": "b-1", "reason": "power is off"}}}
DECIDE = "needs the verb decide on migrations.kubeferry.io in namespace"
FENCE = "needs the verb fence on computenodes.kubeferry.io"
CREATE = ("create", "-f", "-")
APPLY = ("apply", "--server-side", "--force-conflicts", "-f", "-")  # a patch; kubectl gets nothing before it
TELL = (*APPLY, "--subresource=status")


class Caller:
    """Someone with an identity of the lab."""

    def __init__(self, lab: Lab, identity: str, namespace: str = "") -> None:
        """`namespace` is where it asks, if not said otherwise."""
        self.lab = lab
        self.identity = identity
        self.namespace = namespace

    def may(self, *words: str, body: Mapping[str, Any] | None = None) -> str:
        """What kubectl prints when it does this, and does it.

        Raises:
            LabError: it was refused.
        """
        return self.lab.kubectl(*self._where(body), *words, as_=self.identity, stdin=json.dumps(body)).stdout

    def may_not(self, said: str, *words: str, body: Mapping[str, Any] | None = None) -> str:
        """What kubectl tells when this is refused, `said` being part of it."""
        done = self.lab.kubectl(*self._where(body), *words, as_=self.identity, stdin=json.dumps(body), check=False)
        assert done.returncode != 0, f"{self.identity} could kubectl {' '.join(words)}: {done.stdout}"
        assert said in done.stderr, f"{self.identity}: kubectl {' '.join(words)}: {done.stderr}"
        return done.stderr

    def rights(self) -> set[Right]:
        """What the API server says that it may do there."""
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": self.namespace or "default"},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"  # otherwise kubectl wants to list CRDs first, which few may
        told = json.loads(self.may("create", "--raw", path, "-f", "-", body=review))["status"]["resourceRules"]
        return {
            (group, f"{resource} {name}".strip(), verb)
            for rule in told
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            for name in rule.get("resourceNames", [""])
        }

    def _where(self, body: Mapping[str, Any] | None) -> list[str]:
        elsewhere = body is not None and "namespace" in body.get("metadata", {})
        return ["-n", self.namespace] if self.namespace and not elsewhere else []


def person(lab: Lab, namespace: str, role: str | None, name: str = "") -> Caller:
    """A person with a role of kubeferry's in a namespace, or with none; bears the role's name if not another."""
    name = name or role or "stranger"
    lab.kubectl("create", "serviceaccount", name, "-n", namespace)
    identity = f"{name}.{namespace}"
    lab.add_identity(identity, name, namespace)
    caller = Caller(lab, identity, namespace)
    if role is not None:
        bind(caller, f"kubeferry-{role}", namespace)
    return caller


def bind(person: Caller, role: str, namespace: str | None = None) -> None:
    """Give a person a ClusterRole in a namespace, or in all; return when that counts.

    What gives it in all is called after the person's own namespace and the person.
    """
    account = person.identity.removesuffix(f".{person.namespace}")
    if namespace is None:
        kind, metadata = "ClusterRoleBinding", {"name": f"{person.namespace}-{account}"}
    else:
        kind, metadata = "RoleBinding", {"name": account, "namespace": namespace}
    binding = {
        "apiVersion": f"{RBAC}/v1",
        "kind": kind,
        "metadata": metadata,
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": person.namespace}],
    }
    there = Caller(person.lab, person.identity, namespace or person.namespace)
    before = there.rights()
    person.lab.kubectl("create", "-f", "-", stdin=json.dumps(binding))

    def counts() -> None:
        if there.rights() == before:
            raise NotYet("they are what they were")

    wait_until(f"the rights of {role} for {person.identity}", counts, seconds=10, log=person.lab.log("kube-apiserver"))


def agent(lab: Lab, node: str) -> Caller:
    """The agent of a Node that is made for this, which no process is; the Node bears its name."""
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}
    lab.kubectl("create", "-f", "-", stdin=json.dumps(body))
    lab.add_identity(node, AGENT_ACCOUNT, SYSTEM_NAMESPACE, node=node)
    return Caller(lab, node)


def ours(kind: str, name: str, **more: Any) -> dict[str, Any]:
    """An object of our API, as a manifest."""
    return {"apiVersion": f"{GROUP}/v1alpha1", "kind": kind, "metadata": {"name": name}} | more


def merge(**fields: Any) -> tuple[str, ...]:
    """The words of a merge patch of a spec."""
    return ("--type=merge", "-p", json.dumps({"spec": fields}))


def cannot(verb: str, resource: str) -> str:
    """What RBAC says."""
    return f'cannot {verb} resource "{resource}"'


def rights(*, of: dict[str, tuple[str, ...]], group: str = "kubeferry.io") -> set[Right]:
    return {(group, resource, verb) for resource, verbs in of.items() for verb in verbs}


def migration(name: str = "move", **spec: Any) -> dict[str, Any]:
    return ours("Migration", name, spec={"virtualMachine": {"name": "web-0"}} | spec)


def placement(uid: str) -> dict[str, Any]:
    """What the controller writes for a new VM."""
    body = vm_body()
    body["metadata"] |= {"uid": uid, "resourceVersion": "1", "finalizers": [FINALIZER]}
    return ours("Placement", uid, spec=dump(first_spec(load(VirtualMachine, body))))


def host_task(node: str) -> dict[str, Any]:
    """A task for a node; it bears the node's name."""
    asked = {"verb": "Stop", "stop": {"shutdownTimeoutSeconds": 0}, "placement": {"name": "u", "uid": "p"}}
    return ours("HostTask", node, spec={"node": node, "hostId": "h", "epoch": 1, "epochId": "e", "seq": 1} | asked)


def answer(node: str) -> dict[str, Any]:
    """What an agent tells of that task."""
    return ours("HostTask", node, status={"phase": "Running"})


def compute_node(node: str, boot: str = "b-1") -> dict[str, Any]:
    """What an agent tells of its node."""
    return ours("ComputeNode", node, status={"hostId": "h", "bootId": boot, "protocolVersion": 1, "agentVersion": "0"})


def lease(node: str, holder: str = "h") -> dict[str, Any]:
    """An agent's sign of life."""
    metadata = {"name": node, "namespace": SYSTEM_NAMESPACE}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": {"holderIdentity": holder}}
