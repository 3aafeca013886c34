"""A VM that is to go: every copy is sealed, then every copy is discarded, then the VM and its Placement are let go."""

import dataclasses
from datetime import datetime, timedelta

from kubeferry.api import reasons
from kubeferry.api.placement import Lock, LockKind, Outcome, PlacementSpec, StepState
from kubeferry.api.task import DiscardMode, Verb
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.core import back, guards, ledger
from kubeferry.core.fence import fenced
from kubeferry.core.observed import Observed


def holds(spec: PlacementSpec) -> bool:
    """Whether the VM's deletion has the lock."""
    return spec.lock is not None and spec.lock.kind == LockKind.DELETION


def done(spec: PlacementSpec) -> bool:
    """Whether no host holds anything of a VM that is to go."""
    return holds(spec) and not spec.copies


def wanted(spec: PlacementSpec, observed: Observed) -> bool:
    """Whether the VM's deletion is to take the lock now."""
    vm = observed.vm
    return vm is not None and vm.metadata.deletion_timestamp is not None and observed.deletable and not holds(spec)


def taken_over(spec: PlacementSpec, vm: VirtualMachine, now: datetime, fresh_id: str) -> PlacementSpec:
    """The Placement that the VM's deletion holds, and the Seal that is asked of every host; a migration has failed by it.

    Args:
        spec: whoever holds it.
        vm: the VM.
        now: the time, in UTC.
        fresh_id: an id that was never used, for the epoch that begins here.
    """
    if spec.move is not None:
        message = "the VM was deleted while this Migration held it: its copies are given up, too"
        spec = back.unlocked(spec, None, Outcome.FAILED, reasons.VM_DELETED, message, now)
    spec = guards.delete_clears_node(ledger.raise_epoch(spec, fresh_id))
    meta = vm.metadata
    lock = Lock(kind=LockKind.DELETION, namespace=meta.namespace, name=meta.name, uid=meta.uid)
    spec = dataclasses.replace(spec, lock=lock)
    grace = vm.spec.template.spec.termination_grace_period_seconds
    for copy in spec.copies:
        spec = ledger.ask(spec, Verb.SEAL, copy.node, copy.host_id, now, grace=grace)
    return spec


def advance(spec: PlacementSpec, observed: Observed, now: datetime) -> tuple[PlacementSpec, timedelta | None]:
    """The Placement with every copy marked, once all are sealed; until then with the next try of a Seal, or when that is due."""
    if guards.delete_seals(spec, frozenset(copy.host_id for copy in spec.copies if fenced(spec, copy, observed))):
        marked = tuple(dataclasses.replace(copy, discard=copy.discard or DiscardMode.TRASH) for copy in spec.copies)
        return dataclasses.replace(spec, copies=marked), None
    waits: list[timedelta] = []
    for copy in spec.copies:
        sealed = ledger.at_epoch(spec, Verb.SEAL, copy.host_id)
        if sealed is not None and sealed.state not in (StepState.PENDING, StepState.SUCCEEDED):
            spec, wait = ledger.again(spec, sealed, now)
            waits += [] if wait is None else [wait]
    return spec, min(waits, default=None)
