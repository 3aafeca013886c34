"""A VM's first placement: the node that the scheduling pass chooses is written down, and asked to make its disks."""

from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.names import GROUP
from kubeferry.api.placement import Copy, PlacementSpec, StepState, VirtualMachineReference
from kubeferry.api.task import Verb
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.core import ledger, power, project
from kubeferry.core.domain import SpecError, pinned_node, render, require_free_addresses
from kubeferry.core.observed import CreatePlacement, Host, Observed, Place, VmDecision

UNPLACED_RETRY = timedelta(seconds=10)
"""How soon a node is looked for again: what makes one feasible need not wake the VM."""


class _NotKnownYetError(SpecError):
    """Which nodes live is not known yet: this controller has just begun to watch them."""


def begin(vm: VirtualMachine, observed: Observed, now: datetime, fresh_id: str) -> VmDecision:
    """Ask the pass, then write the first Placement; or tell why there is none yet.

    Args:
        vm: protected, and nothing of it is anywhere.
        observed: what was read; with what the pass has answered, once it was asked.
        now: the time, in UTC.
        fresh_id: an id that was never used, for the first epoch.
    """
    try:
        return _decide(vm, observed, now, fresh_id)
    except SpecError as error:
        # What was told before may be true still.
        keep = isinstance(error, _NotKnownYetError) and vm.status is not None
        status = None if keep else project.unplaced(vm, error.reason, str(error), now)
    return VmDecision(status=status, requeue_after=UNPLACED_RETRY)


def _decide(vm: VirtualMachine, observed: Observed, now: datetime, fresh_id: str) -> VmDecision:
    """Raises `SpecError`: it can't be placed now."""
    target = _target(vm, observed)
    if observed.choice is None:
        return VmDecision(place=_wish(vm, target))
    if observed.choice.node is None:
        raise SpecError(reasons.NO_FEASIBLE_NODE, observed.choice.message)
    host = observed.host(observed.choice.node)
    if host is None:  # it went between the pass and this look
        return VmDecision(requeue_after=UNPLACED_RETRY)
    return VmDecision(placement=CreatePlacement(_first(vm, host, observed, now, fresh_id)))


def _target(vm: VirtualMachine, observed: Observed) -> str | None:
    """The only node that will do, which is there and lives; None: whichever the pass chooses."""
    node = pinned_node(vm)
    if node is None:
        if any(host.lease_fresh is None for host in observed.hosts):
            raise _NotKnownYetError(reasons.NODE_NOT_READY, "which agents live is not known yet")
        return None
    host = observed.host(node)
    if host is None:
        known = ", ".join(h.name for h in observed.hosts) or "none"
        raise SpecError(reasons.NODE_UNKNOWN, f"no hypervisor is called {node}, where the hostPath source lies; known: {known}")
    if host.lease_fresh is None:
        raise _NotKnownYetError(reasons.NODE_NOT_READY, f"whether the agent of {node} lives is not known yet")
    if not host.ready:
        raise SpecError(reasons.NODE_NOT_READY, f"the agent of {node} is not ready: see `kubectl get computenode {node} -o yaml`")
    return node


def _wish(vm: VirtualMachine, target: str | None) -> Place:
    """What the pass is asked; of the disks nothing is known before they are made, so the node itself looks for room."""
    template = vm.spec.template.spec
    return Place(
        migration_uid=None,
        vm_uid=vm.metadata.uid,
        source="",
        target=target,
        attempted=frozenset(),
        holders=frozenset(),
        labels=frozenset(template.node_selector.items()),
        architecture=template.architecture,
        machine_type=template.domain.machine.type,
        bridges=frozenset(network.bridge.name for network in template.networks if network.bridge is not None),
        networks=frozenset(network.libvirt.name for network in template.networks if network.libvirt is not None),
        memory=template.domain.memory.guest,
        cpus=template.domain.cpu.cores,
        bytes=0,
    )


def _first(vm: VirtualMachine, host: Host, observed: Observed, now: datetime, fresh_id: str) -> PlacementSpec:
    """The Placement at epoch 1: the node, the right to start the VM, and the Create that is asked of it."""
    domain = render(vm, host.status)
    require_free_addresses(domain, observed.mac_users)
    meta, host_id = vm.metadata, host.status.host_id
    reference = VirtualMachineReference(api_group=GROUP, kind="VirtualMachine", namespace=meta.namespace, name=meta.name, uid=meta.uid)
    spec = PlacementSpec(
        virtual_machine=reference,
        epoch=1,
        lineage=(fresh_id,),
        node_name=host.name,
        host_id=host_id,
        running=power.wanted(vm),
        domain=domain,
        seq=0,
        copies=(Copy(node=host.name, host_id=host_id, epoch_id=fresh_id),),
    )
    return ledger.ask(spec, Verb.CREATE, host.name, host_id, now)


def advance(spec: PlacementSpec, now: datetime) -> tuple[PlacementSpec, timedelta | None]:
    """The Placement with the Create that is asked, again and again, until the disks are whole; or when to look again."""
    last = ledger.last(spec, Verb.CREATE)
    if last is None:
        return ledger.ask(spec, Verb.CREATE, spec.node_name, spec.host_id, now), None
    return (spec, None) if last.state == StepState.PENDING else ledger.again(spec, last, now)
