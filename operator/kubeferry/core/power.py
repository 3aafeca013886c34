"""Whether a VM is to run: what its owner wants, and the Start or Stop that is asked for it."""

import dataclasses
from datetime import datetime, timedelta

from kubeferry.api.domain import Domain
from kubeferry.api.placement import PlacementSpec, StepState
from kubeferry.api.task import Verb
from kubeferry.api.virtualmachine import RunStrategy, VirtualMachine
from kubeferry.core import ledger, resize


def wanted(vm: VirtualMachine) -> bool:
    """Whether its owner wants it to run."""
    return vm.spec.run_strategy == RunStrategy.ALWAYS


def advance(spec: PlacementSpec, vm: VirtualMachine, now: datetime) -> tuple[PlacementSpec, timedelta | None]:
    """The Placement with the Start or Stop that comes next, at the node that may start the VM; or when to look again.

    Not for a VM that is on its way between two hosts: a change is applied once it was seen at its target.

    Args:
        spec: of a VM whose disks are whole; the outcomes of its tasks stand in the ledger.
        vm: the VM.
        now: the time, in UTC.
    """
    verb = Verb.START if wanted(vm) else Verb.STOP
    grace = None if verb == Verb.START else vm.spec.template.spec.termination_grace_period_seconds
    if spec.running != wanted(vm):
        spec = dataclasses.replace(spec, running=wanted(vm), domain=_domain(spec, vm))
        return ledger.ask(spec, verb, spec.node_name, spec.host_id, now, grace=grace), None
    last = max((s for s in spec.steps if s.verb in (Verb.START, Verb.STOP)), key=lambda s: s.seq, default=None)
    if last is None:
        # At a later epoch an Activate has done it.
        first = spec.epoch == 1 and spec.running
        return (ledger.ask(spec, Verb.START, spec.node_name, spec.host_id, now) if first else spec), None
    if last.state in (StepState.PENDING, StepState.SUCCEEDED):
        return spec, None
    return ledger.again(spec, last, now)


def _domain(spec: PlacementSpec, vm: VirtualMachine) -> Domain:
    """What the VM is to be started with from here on; a task that is asked keeps what it tells, and so does a migration."""
    asked = any(s.verb == Verb.START and s.state == StepState.PENDING for s in spec.steps)
    return resize.to_be_run(spec, vm) if wanted(vm) and spec.move is None and not asked else spec.domain
