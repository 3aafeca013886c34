"""What agents and controller may, who fences, and what nobody deletes by mistake, on a real API server: each by a token of its own."""

import json
import os
from typing import Any

import pytest
from lab_people import (
    APPLY,
    CREATE,
    DECIDE,
    FENCE,
    FENCED,
    OWN,
    TELL,
    Caller,
    agent,
    answer,
    bind,
    cannot,
    compute_node,
    host_task,
    lease,
    merge,
    migration,
    ours,
    person,
    placement,
    rights,
)

from kubeferry.api import reasons
from kubeferry.api.names import AGENT_ACCOUNT, FINALIZER, SYSTEM_NAMESPACE
from lab import toolchain
from lab.lab import Lab
from lab.steps import run


def test_an_agent_writes_all_that_it_tells_of_its_own_node(api: Lab, room: str, admin: Caller) -> None:
    node = f"{room}-a"
    own = agent(api, node)
    admin.may(*CREATE, body=host_task(node))
    own.may(*CREATE, body=ours("ComputeNode", node))
    own.may(*TELL, body=compute_node(node))
    own.may(*TELL, body=answer(node))
    own.may(*CREATE, body=lease(node))
    own.may(*APPLY, body=lease(node, "other"))
    assert admin.may("get", "computenode", node, "-o", "jsonpath={.status.bootId}") == "b-1"
    assert admin.may("get", "hosttask", node, "-o", "jsonpath={.status.phase}") == "Running"


def test_an_agent_writes_nothing_of_another_node(api: Lab, room: str, admin: Caller) -> None:
    mine, theirs = f"{room}-a", f"{room}-b"
    own = agent(api, mine)

    def refused(*words: str, body: dict[str, Any]) -> None:
        own.may_not(f"the agent of node {mine} may not write the {body['kind']} of node {theirs}", *words, body=body)

    for body in (ours("ComputeNode", theirs), lease(theirs)):
        refused(*CREATE, body=body)
        admin.may(*CREATE, body=body)
    admin.may(*CREATE, body=host_task(theirs))
    for words, body in ((TELL, compute_node(theirs)), (TELL, answer(theirs)), (APPLY, lease(theirs, "other"))):
        refused(*words, body=body)


def test_an_agents_token_that_is_bound_to_no_node_writes_nothing(api: Lab, room: str, admin: Caller) -> None:
    node = f"{room}-a"
    api.add_identity(f"unbound.{room}", AGENT_ACCOUNT, SYSTEM_NAMESPACE)
    unbound = Caller(api, f"unbound.{room}")
    admin.may(*CREATE, body=host_task(node))
    for words, body in ((CREATE, ours("ComputeNode", node)), (CREATE, lease(node)), (TELL, answer(node))):
        unbound.may_not("the agent's token names no node", *words, body=body)


def test_an_agent_has_these_rights_and_no_other(api: Lab, room: str) -> None:
    everybody = person(api, room, None).rights()
    tells = {"hosttasks/status": ("patch",), "computenodes": ("get", "list", "create"), "computenodes/status": ("patch",)}
    expected = rights(of=tells | {"placements": ("get",), "hosttasks": ("list", "watch")})
    assert Caller(api, "worker-1", room).rights() - everybody == expected
    leases = rights(of={"leases": ("create", "patch")}, group="coordination.k8s.io")
    assert Caller(api, "worker-1", SYSTEM_NAMESPACE).rights() - everybody == expected | leases


def test_the_controller_writes_placements_and_asks_tasks_and_no_agent_does(api: Lab, room: str) -> None:
    controller, own, name = Caller(api, "controller"), Caller(api, "worker-1"), f"{room}-vm"
    for resource, body in (("placements", placement(name)), ("hosttasks", host_task("worker-1"))):
        own.may_not(cannot("create", resource), *CREATE, body=body)
        controller.may(*CREATE, body=body)
    own.may_not(cannot("delete", "hosttasks"), "delete", "hosttask", "worker-1")
    own.may_not(cannot("get", "hosttasks"), "patch", "hosttask", "worker-1", *merge(copy={"bandwidthLimit": 1}))
    controller.may("patch", "hosttask", "worker-1", "--type=merge", "-p", "{}")
    controller.may("delete", "hosttask", "worker-1")
    stored = json.loads(own.may("get", "placement", name, "-o", "json"))
    stored["spec"]["seq"] += 1
    own.may_not(cannot("update", "placements"), "replace", "-f", "-", body=stored)
    own.may_not(cannot("patch", "placements"), "patch", "placement", name, *merge(running=False))
    own.may_not(cannot("delete", "placements"), "delete", "placement", name)
    controller.may("replace", "-f", "-", body=stored)
    controller.may("delete", "placement", name)


def test_the_controller_neither_decides_nor_fences(api: Lab, room: str, admin: Caller) -> None:
    controller = Caller(api, "controller", room)
    admin.may(*CREATE, body=migration())
    controller.may_not(f"{DECIDE} {room}", "patch", "fmig", "move", *merge(decision="Confirm"))
    admin.may("patch", "fmig", "move", *merge(decision="Confirm"))
    controller.may_not(DECIDE, "patch", "fmig", "move", *merge(decision=None))
    controller.may("patch", "fmig", "move", "--type=merge", "-p", json.dumps({"metadata": {"finalizers": [FINALIZER]}}))
    taken = {"phase": "Confirming", "decision": {"value": "Confirm", "source": "User", "time": "2026-01-01T00:00:00Z"}}
    controller.may(*TELL, body=ours("Migration", "move", status=taken))
    controller.may("patch", "fmig", "move", "--type=merge", "-p", '{"metadata": {"finalizers": []}}')
    admin.may(*CREATE, body=ours("ComputeNode", f"{room}-a"))
    controller.may_not(cannot("patch", "computenodes"), *APPLY, body=ours("ComputeNode", f"{room}-a", **FENCED))


def test_the_controller_tells_events_in_every_namespace_and_reads_its_own_kinds(api: Lab, room: str) -> None:
    controller = Caller(api, "controller", room)
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "told"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "kubeferry.io/controller",
        "reportingInstance": "one",
        "action": "Move",
        "reason": "Scheduled",
        "type": "Normal",
        "regarding": {"apiVersion": "kubeferry.io/v1alpha1", "kind": "Migration", "name": "move", "namespace": room},
    }
    controller.may(*CREATE, body=event)
    Caller(api, "worker-1", room).may_not(cannot("create", "events"), *CREATE, body=event)
    kinds = [f"{plural}.kubeferry.io" for plural in ("virtualmachines", "migrations", *OWN)]
    controller.may("get", "crd", *kinds)
    controller.may_not(cannot("list", "customresourcedefinitions"), "get", "crd")
    controller.may_not(cannot("delete", "customresourcedefinitions"), "delete", "crd", kinds[0])


# Fence


@pytest.fixture
def node(room: str, admin: Caller) -> str:
    """A ComputeNode that has told its boot: b-1."""
    name = f"{room}-a"
    admin.may(*CREATE, body=ours("ComputeNode", name))
    admin.may(*TELL, body=compute_node(name))
    return name


def fencing(node: str, boot: str | None, reason: str = "power is off") -> tuple[str, ...]:
    return ("patch", "computenode", node, *merge(fence=boot and {"bootId": boot, "reason": reason}))


def test_who_may_write_a_compute_node_fences_it_only_with_the_verb(api: Lab, room: str, admin: Caller, node: str) -> None:
    caretaker = person(api, room, None, "caretaker")
    admin.may("create", "clusterrole", f"{room}-caretaker", "--verb=get,create,update,patch", "--resource=computenodes.kubeferry.io")
    bind(caretaker, f"{room}-caretaker")
    caretaker.may_not(f"{room}:caretaker may not write spec.fence: that {FENCE}", *fencing(node, "b-1"))
    caretaker.may_not(FENCE, *CREATE, body=ours("ComputeNode", f"{room}-b", **FENCED))
    caretaker.may("label", "computenode", node, "a=b")
    admin.may(*fencing(node, "b-1"))
    caretaker.may_not(FENCE, *fencing(node, "b-1", "another reason"))
    caretaker.may_not(FENCE, *fencing(node, None))
    caretaker.may("label", "computenode", node, "a=c", "--overwrite")


def test_a_cluster_admin_fences_the_boot_that_the_node_has_told_and_no_other(api: Lab, room: str, admin: Caller, node: str) -> None:
    chief = person(api, room, None, "chief")
    bind(chief, "cluster-admin")
    for caller in (admin, chief):
        caller.may_not(f'spec.fence.bootId "b-0" is not the boot of {node}: its status.bootId is "b-1"', *fencing(node, "b-0"))
        caller.may_not("its status.bootId is not known", *CREATE, body=ours("ComputeNode", f"{room}-b", **FENCED))
    chief.may(*fencing(node, "b-1"))
    chief.may_not('"b-0" is not the boot of', *fencing(node, "b-0"))


def test_a_fence_of_a_boot_that_is_over_is_in_nobodys_way_and_is_not_set_again(api: Lab, admin: Caller, node: str) -> None:
    own = agent(api, node)
    admin.may(*fencing(node, "b-1"))
    own.may(*TELL, body=compute_node(node, "b-2"))
    admin.may("label", "computenode", node, "a=b")
    admin.may(*fencing(node, None))
    admin.may_not('its status.bootId is "b-2"', *fencing(node, "b-1"))


def test_an_agent_brings_no_fence_along_with_its_compute_node(api: Lab, room: str, admin: Caller) -> None:
    node = f"{room}-a"
    own = agent(api, node)
    own.may_not(FENCE, *CREATE, body=ours("ComputeNode", node, **FENCED))
    own.may(*CREATE, body=ours("ComputeNode", node))
    own.may_not(cannot("patch", "computenodes"), *fencing(node, "b-1"))
    own.may(*TELL, body=compute_node(node) | FENCED)
    assert admin.may("get", "computenode", node, "-o", "jsonpath={.spec}") == ""


# Deletion


def awaiting(admin: Caller, name: str, status: str = "True") -> None:
    """A Migration with the condition AwaitingDecision."""
    condition = {"type": reasons.AWAITING_DECISION, "status": status, "reason": "Lab", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    admin.may(*CREATE, body=migration(name))
    admin.may(*TELL, body=ours("Migration", name, status={"phase": "AwaitingDecision", "conditions": [condition]}))


def names(caller: Caller) -> list[str]:
    return caller.may("get", "fmig", "-o", "jsonpath={.items[*].metadata.name}").split()


def paste(caller: Caller, command: str) -> None:
    """Run what a message told, as who pastes it into a shell does."""
    path = f"{toolchain.bin_directory()}:{os.environ['PATH']}"
    run(["bash", "-c", command], env=os.environ | {"PATH": path, "KUBECONFIG": str(caller.lab.kubeconfig(caller.identity))})


def test_a_migration_that_awaits_its_decision_is_not_deleted_and_the_refusal_tells_how_to_decide(
    api: Lab, room: str, admin: Caller
) -> None:
    awaiting(admin, "waits")
    admin.may_not("denied request: decide first", "delete", "fmig", "waits", "--force", "--grace-period=0")
    refused = person(api, room, "migrator").may_not("denied request: decide first", "delete", "fmig", "waits")
    assert json.loads(admin.may("get", "fmig", "waits", "-o", "json"))["metadata"].get("deletionTimestamp") is None
    paste(person(api, room, "decider"), refused.partition("decide first (Confirm or Revert): ")[2])
    assert admin.may("get", "fmig", "waits", "-o", "jsonpath={.spec.decision}") == "Confirm"


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_migration_that_awaits_no_decision_is_deleted_whatever_its_phase(api: Lab, room: str, admin: Caller, status: str) -> None:
    awaiting(admin, "decided", status)
    person(api, room, "migrator").may("delete", "fmig", "decided", "--timeout=10s")


def test_a_collection_is_deleted_but_for_what_awaits_a_decision(room: str, admin: Caller) -> None:
    for name in ("a", "d"):
        admin.may(*CREATE, body=migration(name))
    for name in ("b", "c"):
        awaiting(admin, name)
    # One request deletes one after the other, up to the first that is refused; kubectl makes one request for each.
    collection = f"/apis/kubeferry.io/v1alpha1/namespaces/{room}/migrations"
    admin.may_not("decide first (Confirm or Revert): kubectl patch fmig b ", "delete", "--raw", collection)
    assert names(admin) == ["b", "c", "d"]
    admin.may_not("decide first", "delete", "fmig", "--all")
    assert names(admin) == ["b", "c"]


def test_a_namespace_goes_with_what_awaits_a_decision_in_it(api: Lab, room: str, admin: Caller) -> None:
    awaiting(admin, "waits")
    api.kubectl("delete", "namespace", room, "--timeout=55s")
    assert "NotFound" in api.kubectl("get", "namespace", room, check=False).stderr


def test_a_kind_of_ours_is_removed_only_after_that_was_announced(admin: Caller) -> None:
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    kind = {"names": {"plural": "gadgets", "kind": "Gadget"}, "scope": "Cluster", "versions": [version]}
    for group in ("kubeferry.io", "example.org"):
        body = {"kind": "CustomResourceDefinition", "metadata": {"name": f"gadgets.{group}"}, "spec": kind | {"group": group}}
        admin.may(*CREATE, body={"apiVersion": "apiextensions.k8s.io/v1"} | body)
    admin.may("delete", "crd", "gadgets.example.org")
    refused = admin.may_not("deletes every object of its kind", "delete", "crd", "gadgets.kubeferry.io")
    admin.may("annotate", "crd", "gadgets.kubeferry.io", "kubeferry.io/allow-deletion=perhaps")
    admin.may_not("deletes every object of its kind", "delete", "crd", "gadgets.kubeferry.io")
    admin.may("annotate", "crd", "gadgets.kubeferry.io", "kubeferry.io/allow-deletion-")
    paste(admin, refused.partition("if that is meant: ")[2])
    admin.may("delete", "crd", "gadgets.kubeferry.io", "--timeout=30s")
