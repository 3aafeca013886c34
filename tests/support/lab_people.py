"""Who calls the lab's API server: people with roles, agents of nodes, each with a token of its own."""

import json
from collections.abc import Mapping
from typing import Any

from kubeferry.api.names import AGENT_ACCOUNT, GROUP, SYSTEM_NAMESPACE
from lab.lab import Lab
from lab.steps import NotYet, wait_until

RBAC = "rbac.authorization.k8s.io"
Right = tuple[str, str, str]
"""API group, resource and verb."""


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
