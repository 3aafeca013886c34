"""Where a VM is made: the scheduling pass is asked, and what it answers is written down."""

import pytest
from builders import NOON, decided, host, observed, vm
from vm_life import Cluster

from kubeferry.api import reasons
from kubeferry.api.domain import Architecture
from kubeferry.api.meta import Status, condition
from kubeferry.api.virtualmachine import PrintableStatus, VirtualMachine
from kubeferry.core.observed import CreatePlacement, Observed, Place
from kubeferry.core.vm import step

HOSTS = (host("a"), host("b"), host("c"))


def blank() -> VirtualMachine:
    """A VM whose disks need no node."""
    return vm(
        volumes=[{"name": "root", "localDisk": {"capacity": "1Gi", "format": "qcow2", "source": {"blank": {}}}}],
        networks=[{"name": "x", "bridge": {"name": "br0"}}, {"name": "y", "libvirt": {"name": "default"}}, {"name": "z", "user": {}}],
        nodeSelector={"disk": "fast"},
    )


def asked(of: VirtualMachine) -> Place:
    place = step(observed(vm=of, hosts=HOSTS), NOON, "e1").place
    assert place is not None
    return place


def test_of_a_vm_that_is_to_be_made_the_pass_is_told_what_it_needs() -> None:
    made = blank()
    domain = made.spec.template.spec.domain
    assert asked(made) == Place(
        migration_uid=None,
        vm_uid=made.metadata.uid,
        source="",
        target=None,
        attempted=frozenset(),
        holders=frozenset(),
        labels=frozenset({("disk", "fast")}),
        architecture=Architecture.AMD64,
        machine_type="q35",
        bridges=frozenset({"br0"}),
        networks=frozenset({"default"}),
        memory=domain.memory.guest,
        cpus=domain.cpu.cores,
        bytes=0,
    )


def test_a_source_on_a_node_is_the_only_node_that_will_do() -> None:
    assert asked(vm(nodes=("b",))).target == "b"


@pytest.mark.parametrize("node", ["a", "c"])
def test_the_node_that_the_pass_chooses_is_written_down(node: str) -> None:
    placement = decided(observed(vm=vm(nodes=(node,)), hosts=HOSTS), NOON).placement
    assert isinstance(placement, CreatePlacement)
    spec = placement.spec
    assert (spec.node_name, spec.host_id, [c.node for c in spec.copies], [s.node for s in spec.steps]) == (
        node,
        f"host-{node}",
        [node],
        [node],
    )


def test_without_a_node_the_vm_is_told_why_and_looked_at_again() -> None:
    decision = decided(observed(vm=vm(), hosts=HOSTS), NOON, node=None)
    assert (decision.placement, decision.requeue_after is not None) == (None, True)
    assert decision.status is not None
    told = condition(decision.status.conditions, reasons.SCHEDULED)
    assert told is not None
    assert (told.status, told.reason) == (Status.FALSE, reasons.NO_FEASIBLE_NODE)
    assert "0 of 3 nodes are feasible" in told.message
    assert decision.status.printable_status == PrintableStatus.UNSCHEDULABLE


def test_a_node_that_went_between_the_pass_and_the_look_is_chosen_anew() -> None:
    decision = decided(observed(vm=blank(), hosts=HOSTS), NOON, node="gone")
    assert (decision.placement, decision.status, decision.requeue_after is not None) == (None, None, True)


def test_while_it_is_not_known_who_lives_no_node_is_chosen() -> None:
    seen: Observed = observed(vm=blank(), hosts=(*HOSTS, host("d", lease=None)))
    assert step(seen, NOON, "e1").place is None


def test_a_vm_that_was_placed_is_not_asked_for_again() -> None:
    cluster = Cluster()
    cluster.step()
    assert step(observed(vm=cluster.vm, placement=cluster.placement, hosts=HOSTS), NOON, "e2").place is None
