"""The role table: what a task makes of one VM's copy on one host.

Pure, and shared by everything that plays a host. Every cell that acts journals the task's epoch first; a refusal, and every
cell that the table does not name, gives a reason and changes nothing, above all not the journal's epoch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from kubeferry.api import reasons
from kubeferry.api.domain import Domain
from kubeferry.api.placement import PlacementSpec
from kubeferry.api.role import Role
from kubeferry.api.task import HostTaskSpec, TaskState, Verb
from kubeferry.core import guards
from kubeferry.core.journal import Journal, JournalDisk, JournalStep, Reserved


class Effect(StrEnum):
    """What the agent does once the journal is written."""

    MAKE_DISKS = "MakeDisks"
    """Check room, reserve, make every file of the instance from its source."""
    START = "Start"
    """Acknowledge a VM that runs; else start it, if the start gate opens."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The task fails; nothing is changed."""

    reason: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """It was done before: the acknowledgement is repeated from the journal."""

    state: TaskState


@dataclass(frozen=True, slots=True)
class Act:
    """Write the journal, then do the effect, then acknowledge what was observed."""

    journal: Journal
    effect: Effect


Answer = Refuse | Acknowledge | Act
Cell = Callable[[HostTaskSpec, Journal | None, PlacementSpec], Answer]


def answer(task: HostTaskSpec, journal: Journal | None, placement: PlacementSpec, host_id: str) -> Answer:
    """What the host answers to a task.

    Args:
        task: what is asked.
        journal: what this host's journal says of the VM; None: nothing.
        placement: the VM's Placement, read consistently after the task arrived.
        host_id: this host's identity.
    """
    if task.host_id != host_id:
        return Refuse(reasons.HOST_REPLACED, f"the task is for host {task.host_id}, this is {host_id}: the node's state was made anew")
    if journal is not None and not guards.epoch(task.epoch, journal.epoch):
        return Refuse(reasons.STALE_EPOCH, f"the task is of epoch {task.epoch}, this host is at {journal.epoch}")
    role = Role.NONE if journal is None else journal.role
    ids = [task.epoch_id] if journal is None or role in (Role.NONE, Role.GONE) else [task.epoch_id, journal.epoch_id]
    for epoch_id in ids:
        if not guards.lineage(placement, epoch_id, host_id):
            return Refuse(
                reasons.HISTORY_DIVERGED, f"epoch id {epoch_id} is not in the Placement's lineage; this host holds a copy as {role}"
            )
    cell = TABLE.get((role, task.verb))
    if cell is None:
        return _refused(task, role)
    return cell(task, journal, placement)


def _refused(task: HostTaskSpec, role: Role) -> Refuse:
    return Refuse(reasons.REFUSED_BY_ROLE, f"{task.verb} at epoch {task.epoch} is not for a copy that is {role}")


def _domain(task: HostTaskSpec) -> Domain | None:
    parameters = {Verb.CREATE: task.create, Verb.START: task.start}[task.verb]
    return None if parameters is None else parameters.domain


def _begin(task: HostTaskSpec, journal: Journal | None, role: Role, effect: Effect) -> Answer:
    """The journal at the task's epoch and in that role; a new one, if `journal` is None."""
    domain = _domain(task)
    if domain is None or domain.uuid != task.placement.name:
        return Refuse(reasons.INVALID_TASK, f"the task lacks the parameters of {task.verb}, or they are of another VM")
    step = JournalStep(seq=task.seq, verb=task.verb)
    if journal is None:
        fresh = Journal(uid=domain.uuid, epoch=task.epoch, epoch_id=task.epoch_id, role=role, step=step, domain=domain)
        return Act(fresh, effect)
    return Act(dataclasses.replace(journal, epoch=task.epoch, epoch_id=task.epoch_id, role=role, step=step, domain=domain), effect)


def _create_new(task: HostTaskSpec, _: Journal | None, placement: PlacementSpec) -> Answer:
    # Nothing of the VM is here, so nothing here could tell a late task from a wanted one: disks made anew from their sources,
    # ACTIVE, on a host that the VM has left long ago.
    if task.epoch != placement.epoch or not guards.gate_node(placement, task.node, task.host_id):
        where = f"{placement.node_name or 'no node'} (host {placement.host_id or 'none'}) at epoch {placement.epoch}"
        return Refuse(reasons.NOT_PLACED_HERE, f"the Placement names {where}; the task is for {task.node} at epoch {task.epoch}")
    return _begin(task, None, Role.INCOMING, Effect.MAKE_DISKS)


def _create_again(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    if journal is None or task.epoch != journal.epoch:
        return _refused(task, Role.INCOMING)
    return _begin(task, journal, Role.INCOMING, Effect.MAKE_DISKS)


def _created_before(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    if journal is None or task.epoch != journal.epoch:
        return _refused(task, Role.ACTIVE)
    return Acknowledge(TaskState.CREATED)


def _start(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    return _begin(task, journal, Role.ACTIVE, Effect.START)


TABLE: Mapping[tuple[Role, Verb], Cell] = {
    (Role.NONE, Verb.CREATE): _create_new,
    (Role.GONE, Verb.CREATE): _create_new,
    (Role.INCOMING, Verb.CREATE): _create_again,
    (Role.ACTIVE, Verb.CREATE): _created_before,
    (Role.ACTIVE, Verb.START): _start,
}
"""The cells that act, by role and verb; all others refuse."""


def reserve(journal: Journal, disk: int) -> Journal:
    """The journal with what the copy holds of the host: the entry is the reservation.

    Args:
        journal: of a copy with a domain.
        disk: bytes of the instances' file system.
    """
    if journal.domain is None:
        raise ValueError(f"the journal of {journal.uid} has no domain")
    held = Reserved(cpu=journal.domain.cpu_cores, memory=journal.domain.memory, disk=disk)
    return dataclasses.replace(journal, reserved=held)


def note_created(journal: Journal, name: str) -> Journal:
    """The journal that names a file before it is created."""
    return journal if name in journal.created else dataclasses.replace(journal, created=(*journal.created, name))


def activate(journal: Journal, disks: Mapping[str, JournalDisk]) -> Journal:
    """The journal of a created copy: its disks are whole and fsynced."""
    return dataclasses.replace(journal, role=Role.ACTIVE, disks=dict(disks))


def gate(placement: PlacementSpec, journal: Journal, node: str, host_id: str, task: HostTaskSpec | None) -> Refuse | None:
    """The start gate, asked before every start, also after a boot of the host or of the agent.

    Args:
        placement: read consistently, after this boot's id was published.
        journal: this host's journal of the VM.
        node: this node's name.
        host_id: this host's identity.
        task: the task that asks; None: the agent itself, for a VM that is ACTIVE and does not run.

    Returns:
        None if the VM may be started, else why not.
    """
    shut = None
    if not guards.gate_node(placement, node, host_id):
        shut = f"the Placement names {placement.node_name or 'no node'} (host {placement.host_id or 'none'}), not {node} (host {host_id})"
    elif not placement.running:
        shut = "the Placement wants the VM stopped"
    elif journal.role != Role.ACTIVE:
        shut = f"the copy here is {journal.role}, not ACTIVE"
    elif not guards.lineage(placement, journal.epoch_id, host_id):
        return Refuse(reasons.HISTORY_DIVERGED, f"the journal's epoch id {journal.epoch_id} is not in the Placement's lineage")
    elif task is not None and task.epoch != placement.epoch:
        shut = f"the task is of epoch {task.epoch}, the Placement is at {placement.epoch}"
    return None if shut is None else Refuse(reasons.GATE_SHUT, shut)
