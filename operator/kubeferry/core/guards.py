"""The guards of the protocol, one function each, by the names that the model of the protocol gives them.

Each stands between a late, stale or misled actor and a VM's only disk; tests remove them one at a time and see what happens.
Callers reach them through this module (`guards.epoch(...)`), so that a test can replace one by its name.
"""

from kubeferry.api.placement import PlacementSpec, Step, StepState
from kubeferry.api.role import Role
from kubeferry.api.task import HostTaskSpec, ProofKind, TaskState, Verb
from kubeferry.core.journal import Journal
from kubeferry.core.observed import Host


def epoch(task_epoch: int, journal_epoch: int) -> bool:
    """A host refuses a task whose epoch is below its journal's."""
    return task_epoch >= journal_epoch


def lineage(placement: PlacementSpec, epoch_id: str, host_id: str) -> bool:
    """An epoch that a task or a journal names must be of this Placement's history.

    It is when it is among the lineage's ids, or is the one that this host acknowledged last. If not, etcd was restored from a
    backup that does not know what this host has done.
    """
    return epoch_id in placement.lineage or any(c.host_id == host_id and c.epoch_id == epoch_id for c in placement.copies)


def gate_node(placement: PlacementSpec, node: str, host_id: str) -> bool:
    """The start gate opens on the one host that the Placement names."""
    return placement.node_name == node and placement.host_id == host_id


def receiver_checks(journal: Journal, epoch: int, epoch_id: str, source: str) -> bool:
    """A receiver writes only to a copy of exactly the sender's epoch, and only for the source that it was prepared for."""
    of_this_move = (journal.epoch, journal.epoch_id, journal.source) == (epoch, epoch_id, source)
    return of_this_move and journal.role in (Role.INCOMING, Role.VERIFIED)


def activate_needs_release(task: HostTaskSpec) -> bool:
    """The target is activated only after the source was RELEASED."""
    proof = None if task.activate is None else task.activate.proof
    return proof is not None and proof.kind == ProofKind.RELEASED


def proof_of_seal(task: HostTaskSpec) -> bool:
    """A RELEASED source is activated only with proof that the target is sealed or fenced."""
    proof = None if task.activate is None else task.activate.proof
    return proof is not None and proof.kind in (ProofKind.SEALED, ProofKind.FENCE)


def confirm_running(spec: PlacementSpec) -> bool:
    """Confirm needs RUNNING at this epoch in the ledger."""
    return any(
        step.verb == Verb.ACTIVATE and step.epoch == spec.epoch and step.state == StepState.SUCCEEDED and _tells(step, TaskState.RUNNING)
        for step in spec.steps
    )


def _tells(step: Step, state: TaskState) -> bool:
    return step.result is not None and step.result.state == state


def confirm_fresh(spec: PlacementSpec, target: Host | None) -> bool:
    """Confirm needs the target's own word of now: a fresh Lease, and an inventory that says ACTIVE at this epoch's id.

    An agent renews its Lease only after its inventory stands in the API.
    """
    if target is None or not target.lease_fresh or target.status.host_id != spec.host_id:
        return False
    copy = target.copy_of(spec.virtual_machine.uid)
    return copy is not None and copy.role == Role.ACTIVE and copy.epoch_id == spec.epoch_id
