"""Which person may what, on a real API server: asked by those who may, and by those who may not, each with a token of its own."""

import json
from typing import Any

import pytest
from lab_people import (
    CHANGE,
    CREATE,
    DECIDE,
    OWN,
    READ,
    TELL,
    TIMEOUT,
    Caller,
    answer,
    bind,
    cannot,
    compute_node,
    host_task,
    merge,
    migration,
    ours,
    person,
    placement,
    rights,
)
from lab_vm import vm_manifest

from lab.lab import Lab

ROLES: dict[str, dict[str, tuple[str, ...]]] = {
    "vm-editor": {"virtualmachines": (*READ, *CHANGE, "create", "delete")},
    "migrator": {"migrations": (*READ, *CHANGE, "create", "delete"), "virtualmachines": READ},
    "decider": {"migrations": (*READ, *CHANGE, "decide")},
    "viewer": dict.fromkeys(("virtualmachines", "migrations", "placements", "hosttasks", "computenodes"), READ),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_gives_the_rights_that_its_name_says_and_no_other(api: Lab, room: str, role: str) -> None:
    everybody = person(api, room, None).rights()
    assert person(api, room, role).rights() - everybody == rights(of=ROLES[role])


def test_no_role_is_a_part_of_edit_admin_or_view_and_none_gives_fence(admin: Caller) -> None:
    told = json.loads(admin.may("get", "clusterroles", "-o", "json"))["items"]
    roles = {role["metadata"]["name"]: role for role in told if role["metadata"]["name"].startswith("kubeferry-")}
    assert set(roles) == {f"kubeferry-{name}" for name in (*ROLES, "controller", "agent")}
    assert [label for role in roles.values() for label in role["metadata"].get("labels", {}) if "aggregate" in label] == []
    verbs = {name: {verb for rule in role["rules"] for verb in rule["verbs"]} for name, role in roles.items()}
    assert [name for name in verbs if "decide" in verbs[name]] == ["kubeferry-decider"]
    assert [name for name in verbs if verbs[name] & {"fence", "*"}] == []


def test_a_vm_editor_creates_changes_and_deletes_a_vm_but_no_migration(api: Lab, room: str) -> None:
    editor = person(api, room, "vm-editor")
    editor.may(*CREATE, body=vm_manifest("mine"))
    editor.may("label", "fvm", "mine", "a=b")
    editor.may_not(cannot("patch", "virtualmachines/status"), *TELL, body=ours("VirtualMachine", "mine", status={}))
    editor.may("delete", "fvm", "mine")
    editor.may_not(cannot("create", "migrations"), *CREATE, body=migration())
    editor.may_not(cannot("list", "migrations"), "get", "fmig")


def test_a_migrator_creates_changes_and_deletes_a_migration_but_no_vm(api: Lab, room: str) -> None:
    migrator = person(api, room, "migrator")
    migrator.may(*CREATE, body=migration())
    migrator.may("patch", "fmig", "move", *merge(shutdownTimeoutSeconds=5))
    migrator.may_not(cannot("patch", "migrations/status"), *TELL, body=migration(status={}))
    migrator.may("delete", "fmig", "move")
    migrator.may("get", "fvm")
    migrator.may_not(cannot("create", "virtualmachines"), *CREATE, body=vm_manifest("mine"))


@pytest.mark.parametrize("decided", [{"decision": "Confirm"}, TIMEOUT, {"decision": "Revert"} | TIMEOUT], ids=["value", "time", "both"])
def test_a_migrator_creates_no_migration_that_is_decided_from_the_start(api: Lab, room: str, decided: dict[str, Any]) -> None:
    message = person(api, room, "migrator").may_not(f"{DECIDE} {room}", *CREATE, body=migration(**decided))
    assert f"system:serviceaccount:{room}:migrator may not write decision" in message


@pytest.mark.parametrize(
    ("before", "change"),
    [
        pytest.param({}, {"decision": "Confirm"}, id="decided"),
        pytest.param({}, TIMEOUT, id="to be decided by time"),
        pytest.param({"decision": "Confirm"}, {"decision": "Revert"}, id="decided otherwise"),
        pytest.param({"decision": "Confirm"}, {"decision": None}, id="undecided"),
        pytest.param(TIMEOUT, {"decisionTimeoutSeconds": 1}, id="decided earlier"),
        pytest.param(TIMEOUT, {"onDecisionTimeout": "Confirm"}, id="decided otherwise by time"),
        pytest.param(TIMEOUT, dict.fromkeys(TIMEOUT), id="no longer decided by time"),
    ],
)
def test_a_decision_is_changed_by_a_decider_and_by_no_migrator(
    api: Lab, room: str, admin: Caller, before: dict[str, Any], change: dict[str, Any]
) -> None:
    admin.may(*CREATE, body=migration(**before))
    migrator, decider = person(api, room, "migrator"), person(api, room, "decider")
    migrator.may_not(DECIDE, "patch", "fmig", "move", *merge(**change))
    wanted = {key: value for key, value in (before | change).items() if value is not None}
    stored = json.loads(migrator.may("get", "fmig", "move", "-o", "json"))
    kept = {key: value for key, value in stored["spec"].items() if key not in ("decision", *TIMEOUT)}
    migrator.may_not(DECIDE, "replace", "-f", "-", body=stored | {"spec": kept | wanted})
    decider.may("patch", "fmig", "move", *merge(**change))
    assert json.loads(decider.may("get", "fmig", "move", "-o", "json"))["spec"] == kept | wanted


def test_whoever_changes_anything_else_of_a_decided_migration_needs_no_right_to_decide(api: Lab, room: str, admin: Caller) -> None:
    admin.may(*CREATE, body=migration(decision="Confirm", **TIMEOUT))
    migrator = person(api, room, "migrator")
    migrator.may("annotate", "fmig", "move", "a=b")
    migrator.may("patch", "fmig", "move", *merge(decision="Confirm", shutdownTimeoutSeconds=5, **TIMEOUT))
    migrator.may("delete", "fmig", "move")


def test_a_decision_that_was_taken_is_stripped_by_a_migrator_and_not_turned(api: Lab, room: str, admin: Caller) -> None:
    migrator = person(api, room, "migrator")
    admin.may(*CREATE, body=migration(decision="Confirm", **TIMEOUT))
    migrator.may_not(DECIDE, "patch", "fmig", "move", *merge(decision=None))
    taken = {"phase": "Confirming", "decision": {"value": "Confirm", "source": "User", "time": "2026-01-01T00:00:00Z"}}
    admin.may("patch", "fmig", "move", "--subresource=status", "--type=merge", "-p", json.dumps({"status": taken}))
    migrator.may("patch", "fmig", "move", *merge(decision=None, decisionTimeoutSeconds=None, onDecisionTimeout=None))
    migrator.may_not("the decision was taken: Confirm is final", "patch", "fmig", "move", *merge(decision="Revert"))


def test_a_decider_neither_creates_nor_deletes(api: Lab, room: str, admin: Caller) -> None:
    admin.may(*CREATE, body=migration())
    decider = person(api, room, "decider")
    decider.may_not(cannot("create", "migrations"), *CREATE, body=migration("other"))
    decider.may_not(cannot("delete", "migrations"), "delete", "fmig", "move")


def test_who_decides_in_one_namespace_decides_in_no_other(api: Lab, room: str, admin: Caller) -> None:
    decider, elsewhere = person(api, room, "decider"), f"{room}-elsewhere"
    api.kubectl("create", "namespace", elsewhere)
    bind(decider, "kubeferry-migrator", elsewhere)
    there = Caller(api, decider.identity, elsewhere)
    there.may(*CREATE, body=migration())
    there.may_not(f"{DECIDE} {elsewhere}", "patch", "fmig", "move", *merge(decision="Confirm"))
    admin.may(*CREATE, body=migration())
    decider.may("patch", "fmig", "move", *merge(decision="Confirm"))


def test_a_viewer_of_a_namespace_reads_what_is_there_and_nothing_beyond(api: Lab, room: str, admin: Caller) -> None:
    admin.may(*CREATE, body=migration())
    viewer = person(api, room, "viewer")
    assert viewer.may("get", "fvm,fmig", "-o", "name").split() == ["migration.kubeferry.io/move"]
    viewer.may_not(cannot("list", "migrations"), "get", "fmig", "--all-namespaces")
    for resource in OWN:
        viewer.may_not(cannot("list", resource), "get", resource)


def test_a_viewer_of_the_cluster_reads_all_and_writes_nothing(api: Lab, room: str, admin: Caller) -> None:
    node = f"{room}-a"
    for body in (migration(), host_task(node), ours("ComputeNode", node), placement(node)):
        admin.may(*CREATE, body=body)
    viewer = person(api, room, None, "viewer")
    bind(viewer, "kubeferry-viewer")
    viewer.may("get", "fvm,fmig", "--all-namespaces")
    for resource in OWN:
        viewer.may("get", resource, node)
        viewer.may_not(cannot("patch", resource), "label", resource, node, "a=b")
        viewer.may_not(cannot("delete", resource), "delete", resource, node)
    viewer.may_not(cannot("create", "migrations"), *CREATE, body=migration("other"))
    viewer.may_not(cannot("create", "virtualmachines"), *CREATE, body=vm_manifest("mine"))
    viewer.may_not(cannot("patch", "migrations"), "patch", "fmig", "move", *merge(decision="Revert"))
    viewer.may_not(cannot("delete", "migrations"), "delete", "fmig", "move")


@pytest.mark.parametrize("role", ROLES)
def test_no_person_writes_what_is_the_operators_own(api: Lab, room: str, role: str) -> None:
    caller, node = person(api, room, None, role), f"{room}-a"
    bind(caller, f"kubeferry-{role}")  # in the whole cluster: more than that nobody can be given it
    for resource, body in zip(OWN, (placement(node), host_task(node), ours("ComputeNode", node)), strict=True):
        caller.may_not(cannot("create", resource), *CREATE, body=body)
    caller.may_not(cannot("patch", "hosttasks/status"), *TELL, body=answer(node))
    caller.may_not(cannot("patch", "computenodes/status"), *TELL, body=compute_node(node))
