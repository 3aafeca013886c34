"""A VM's life outside of migrations: placed, created, started. One step from what was observed to what is to be written."""

import dataclasses
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.names import FINALIZER, GROUP
from kubeferry.api.placement import Copy, PlacementSpec, Step, StepState, VirtualMachineReference
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.core import ledger, project, trouble
from kubeferry.core.domain import SpecError, pinned_node, render
from kubeferry.core.observed import CreatePlacement, Observed, ReplacePlacement, VmDecision

UNPLACED_RETRY = timedelta(seconds=10)
FIRST_RETRY = timedelta(seconds=5)
LONGEST_RETRY = timedelta(minutes=5)


def step(observed: Observed, now: datetime, fresh_id: str) -> VmDecision:
    """What to write next for one VM.

    Args:
        observed: what was read; the Placement consistently, in this pass.
        now: the time, in UTC.
        fresh_id: an id that was never used, for an epoch that may begin here.
    """
    vm, placement = observed.vm, observed.placement
    if vm is None:  # gone although protected: what is there runs on, and nothing is concluded from its absence
        return VmDecision()
    if placement is None:
        return _unplaced(vm, observed, now, fresh_id)
    settled = ledger.settle(placement, observed.tasks, now)
    wanted, again = _advance(settled, now) if vm.metadata.deletion_timestamp is None else (_held(settled), None)
    if wanted != placement.spec:
        return VmDecision(placement=ReplacePlacement(wanted))
    found, due = trouble.find(placement, observed, now)
    in_the_way = {stranger.wanted.name for stranger in observed.strangers}
    return VmDecision(
        tasks=tuple(new for new in ledger.missing(placement, observed.tasks) if new.name not in in_the_way),
        forget=ledger.recorded(placement.spec, observed.tasks),
        status=project.placed(vm, placement.spec, observed.host(placement.spec.node_name), found, now),
        requeue_after=min((delay for delay in (again, due) if delay is not None), default=None),
    )


def _held(spec: PlacementSpec) -> PlacementSpec:
    """The Placement of a VM that is to go: one that was never asked to start is not started any more."""
    return spec if ledger.last(spec, Verb.START) is not None else dataclasses.replace(spec, running=False)


def _unplaced(vm: VirtualMachine, observed: Observed, now: datetime, fresh_id: str) -> VmDecision:
    held = [f"{h.name} ({c.role})" for h in observed.hosts if (c := h.copy_of(vm.metadata.uid)) and c.role not in (Role.NONE, Role.GONE)]
    if held or (vm.status is not None and vm.status.node_name):
        return VmDecision(status=project.placement_lost(vm, held, now))
    if vm.metadata.deletion_timestamp is not None:
        return VmDecision(release=FINALIZER in vm.metadata.finalizers)
    if FINALIZER not in vm.metadata.finalizers:
        return VmDecision(protect=True)
    try:
        return VmDecision(placement=CreatePlacement(_first(vm, observed, now, fresh_id)))
    except SpecError as error:
        # What was told before may be true still.
        keep = isinstance(error, _NotKnownYetError) and vm.status is not None
        status = None if keep else project.unplaced(vm, error.reason, str(error), now)
    return VmDecision(status=status, requeue_after=UNPLACED_RETRY)


class _NotKnownYetError(SpecError):
    """Whether the node lives is not known yet: this controller has just begun to watch it."""


def _first(vm: VirtualMachine, observed: Observed, now: datetime, fresh_id: str) -> PlacementSpec:
    """The Placement at epoch 1: the node, the right to start the VM, and the Create that is asked of it."""
    node = pinned_node(vm)
    host = observed.host(node)
    if host is None:
        known = ", ".join(h.name for h in observed.hosts) or "none"
        raise SpecError(reasons.NODE_UNKNOWN, f"no hypervisor is called {node}, where the hostPath source lies; known: {known}")
    if host.lease_fresh is None:
        raise _NotKnownYetError(reasons.NODE_NOT_READY, f"whether the agent of {node} lives is not known yet")
    if not host.ready:
        raise SpecError(reasons.NODE_NOT_READY, f"the agent of {node} is not ready: see `kubectl get computenode {node} -o yaml`")
    meta = vm.metadata
    reference = VirtualMachineReference(api_group=GROUP, kind="VirtualMachine", namespace=meta.namespace, name=meta.name, uid=meta.uid)
    spec = PlacementSpec(
        virtual_machine=reference,
        epoch=1,
        lineage=(fresh_id,),
        node_name=node,
        host_id=host.status.host_id,
        running=True,
        domain=render(vm, host.status),
        seq=0,
        copies=(Copy(node=node, host_id=host.status.host_id, epoch_id=fresh_id),),
    )
    return ledger.ask(spec, Verb.CREATE, node, host.status.host_id, now)


def _advance(spec: PlacementSpec, now: datetime) -> tuple[PlacementSpec, timedelta | None]:
    """The Placement with the next step of Create, then Start; or when to look again."""
    if spec.epoch > 1:  # whoever raised the epoch also asks what comes next
        return spec, None
    for verb in (Verb.CREATE, Verb.START):
        last = ledger.last(spec, verb)
        if last is None:
            return ledger.ask(spec, verb, spec.node_name, spec.host_id, now), None
        if last.state == StepState.PENDING:
            return spec, None
        if last.state != StepState.SUCCEEDED:
            return _again(spec, last, now)
    return spec, None


def _again(spec: PlacementSpec, failed: Step, now: datetime) -> tuple[PlacementSpec, timedelta | None]:
    failures = sum(s.verb == failed.verb and s.state != StepState.SUCCEEDED for s in spec.steps)
    delay = min(FIRST_RETRY * 2 ** (failures - 1), LONGEST_RETRY)
    due = (failed.finished_at or now) + delay
    if due > now:
        return spec, due - now
    return ledger.ask(spec, failed.verb, failed.node, failed.host_id, now), None
