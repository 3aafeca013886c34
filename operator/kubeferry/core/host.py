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
from kubeferry.api.task import (
    ActivateParameters,
    CreateParameters,
    DiscardMode,
    HostTaskSpec,
    PrepareParameters,
    ProofKind,
    StartParameters,
    TaskState,
    Verb,
)
from kubeferry.core import guards
from kubeferry.core.journal import Journal, JournalStep


class Effect(StrEnum):
    """What the agent does once the journal is written."""

    MAKE_DISKS = "MakeDisks"
    """Check room, reserve, make every file of the instance from its source."""
    START = "Start"
    """Acknowledge a VM that runs; else start it, if the start gate opens."""
    POWER_OFF = "PowerOff"
    """Stop the VM; its copy stays ACTIVE, and the start gate keeps it off for as long as the Placement wants that."""
    RESERVE = "Reserve"
    """Check that the host can run the VM, and reserve what it needs: that is what writes the journal."""
    REACH = "Reach"
    """Reach the target, and have it make the instance directory; no journal is written here."""
    STOP = "Stop"
    """Stop the VM, prove it stopped, and journal SEALED."""
    FINISH_SEAL = "FinishSeal"
    """Do what an interrupted Seal has left to do, at its own epoch, up to SEALED; then ask the table again."""
    SEND = "Send"
    """Have the target hold a verified copy, and journal RELEASED then."""
    DISCARD = "Discard"
    """Prove the VM stopped once more, journal, move its files to the trash, and journal GONE."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The task fails; nothing is changed."""

    reason: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """It was done before, or there is nothing to do: the acknowledgement comes from the journal."""

    state: TaskState
    note: Journal | None = None
    """Written first: lower epochs are refused from then on."""


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
    """What the VM is to run with, for the verbs that say so."""
    says: dict[Verb, CreateParameters | StartParameters | PrepareParameters | ActivateParameters | None] = {
        Verb.CREATE: task.create,
        Verb.START: task.start,
        Verb.PREPARE: task.prepare,
        Verb.ACTIVATE: task.activate,
    }
    parameters = says[task.verb]
    return None if parameters is None else parameters.domain


def _lacks(task: HostTaskSpec) -> Refuse:
    return Refuse(reasons.INVALID_TASK, f"the task lacks the parameters of {task.verb}, or they are of another VM")


def _begin(task: HostTaskSpec, journal: Journal | None, role: Role, effect: Effect) -> Answer:
    """The journal at the task's epoch and in that role; a new one, if `journal` is None."""
    domain = _domain(task)
    if domain is None or domain.uuid != task.placement.name:
        return _lacks(task)
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
    # With a source, it is a Prepare's.
    if journal is None or task.epoch != journal.epoch or journal.source is not None:
        return _refused(task, Role.INCOMING)
    return _begin(task, journal, Role.INCOMING, Effect.MAKE_DISKS)


def _created_before(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    if journal is None or task.epoch != journal.epoch:
        return _refused(task, Role.ACTIVE)
    return Acknowledge(TaskState.CREATED)


def _start(task: HostTaskSpec, journal: Journal | None, placement: PlacementSpec) -> Answer:
    if not guards.still_asked(placement, task):
        return _settled(task)
    return _begin(task, journal, Role.ACTIVE, Effect.START)


def _settled(task: HostTaskSpec) -> Refuse:
    return Refuse(reasons.STALE_TASK, f"{task.verb} number {task.seq} is not waited for any more: the Placement's ledger has gone on")


def _activate(task: HostTaskSpec, journal: Journal | None, placement: PlacementSpec) -> Answer:
    """The copy is the VM from here on; one that is halted is not started."""
    begun = _begin(task, journal, Role.ACTIVE, Effect.START)
    if placement.running or not isinstance(begun, Act):
        return begun
    return Acknowledge(TaskState.READY, note=begun.journal)


def _stop(task: HostTaskSpec, journal: Journal | None, placement: PlacementSpec) -> Answer:
    if journal is None or task.stop is None:
        return _lacks(task)
    if not guards.still_asked(placement, task):
        return _settled(task)
    step = JournalStep(seq=task.seq, verb=task.verb, grace_seconds=task.stop.shutdown_timeout_seconds)
    return Act(dataclasses.replace(_at(task, journal, Role.ACTIVE), step=step), Effect.POWER_OFF)


def _prepare_new(task: HostTaskSpec, _: Journal | None, __: PlacementSpec) -> Answer:
    begun = _begin(task, None, Role.INCOMING, Effect.RESERVE)
    if isinstance(begun, Act) and task.prepare is not None:
        return dataclasses.replace(begun, journal=dataclasses.replace(begun.journal, source=task.prepare.source))
    return begun


def _prepared_before(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    # Without a source, it is a Create's.
    if journal is None or task.epoch != journal.epoch or journal.source is None:
        return _refused(task, Role.INCOMING)
    return Acknowledge(TaskState.PREPARED)


def _to_self(task: HostTaskSpec, _: Journal | None, __: PlacementSpec) -> Answer:
    return Refuse(reasons.UNABLE_TO_MIGRATE_TO_SELF, f"the VM is on {task.node} already")


def _preflight(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    if journal is None or task.preflight is None:
        return _lacks(task)
    return Act(journal, Effect.REACH)


def _at(task: HostTaskSpec, journal: Journal, role: Role) -> Journal:
    """The journal at the task's epoch, in that role."""
    step = JournalStep(seq=task.seq, verb=task.verb)
    return dataclasses.replace(journal, epoch=task.epoch, epoch_id=task.epoch_id, role=role, step=step)


def _seal(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    if journal is None or task.seal is None:
        return _lacks(task)
    # At the journal's own epoch it is the Seal that came before the Activate of this epoch.
    if journal.role == Role.ACTIVE and task.epoch == journal.epoch:
        return _refused(task, Role.ACTIVE)
    step = JournalStep(seq=task.seq, verb=task.verb, grace_seconds=task.seal.shutdown_timeout_seconds)
    return Act(dataclasses.replace(_at(task, journal, Role.SEALING), step=step), Effect.STOP)


def _seal_stopped(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    """Nothing runs here: the copy stays what it is, and lower epochs are refused from then on."""
    if journal is None:
        return _lacks(task)
    if journal.role == Role.SEALED and task.epoch == journal.epoch:
        return Acknowledge(TaskState.SEALED)
    return Acknowledge(TaskState.SEALED, note=_at(task, journal, journal.role))


def _seal_incoming(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    """It may not be activated any more: whoever still fills it has another epoch."""
    if journal is None:
        return _lacks(task)
    return Acknowledge(TaskState.SEALED, note=_at(task, journal, Role.INCOMING))


def _seal_nothing(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    return Acknowledge(TaskState.SEALED, note=_nothing(task, journal))


def _copy(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    if journal is None or task.copy is None:
        return _lacks(task)
    sealed = guards.sealed_first(journal.role)
    if not sealed or (journal.role == Role.SEALED and task.epoch != journal.epoch):
        return _refused(task, journal.role)
    return Act(_at(task, journal, journal.role), Effect.SEND)


def _copied_before(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    if journal is None or task.epoch != journal.epoch:
        return _refused(task, Role.RELEASED)
    return Acknowledge(TaskState.RELEASED)


def _activate_verified(task: HostTaskSpec, journal: Journal | None, placement: PlacementSpec) -> Answer:
    if journal is None:
        return _lacks(task)
    released = _proof(task) == ProofKind.RELEASED
    whole = guards.verified(whole=journal.role == Role.VERIFIED)
    if task.epoch != journal.epoch or not whole or not guards.activate_needs_release(released=released):
        return _refused(task, journal.role)
    return _activate(task, journal, placement)


def _activate_sealed(task: HostTaskSpec, journal: Journal | None, placement: PlacementSpec) -> Answer:
    """Back before RELEASED: the source needs nobody for it. At its own epoch it was sealed to be copied."""
    if journal is None or task.epoch == journal.epoch:
        return _refused(task, Role.SEALED)
    return _activate(task, journal, placement)


def _activate_released(task: HostTaskSpec, journal: Journal | None, placement: PlacementSpec) -> Answer:
    if journal is None:
        return _lacks(task)
    if not guards.proof_of_seal(task):  # the controller did not know: now it does, and the target comes first
        return Acknowledge(TaskState.RELEASED, note=_at(task, journal, Role.RELEASED))
    return _activate(task, journal, placement)


def _activate_sealing(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    if journal is None or task.epoch == journal.epoch:
        return _refused(task, Role.SEALING)
    # At its own epoch: interrupted again, it is asked again as a higher one.
    return Act(journal, Effect.FINISH_SEAL)


def _proof(task: HostTaskSpec) -> ProofKind | None:
    return None if task.activate is None or task.activate.proof is None else task.activate.proof.kind


def _discard(task: HostTaskSpec, journal: Journal | None, placement: PlacementSpec) -> Answer:
    if journal is None or task.discard is None:
        return _lacks(task)
    if not guards.discard_named(placement, journal, task.host_id):
        named = ", ".join(f"{copy.node} of epoch id {copy.epoch_id}" for copy in placement.copies) or "none"
        seen = f"the copy here is {journal.role} of epoch {journal.epoch} ({journal.epoch_id}); the Placement names {named}"
        return Refuse(reasons.FOREIGN_COPY, f"{seen}. It is left as it is: find out where it comes from")
    if task.discard.mode != DiscardMode.TRASH:
        return Refuse(reasons.INVALID_TASK, f"this version can't discard a copy by {task.discard.mode}")
    if journal.role == Role.SEALING:
        return Act(journal, Effect.FINISH_SEAL)
    return Act(_at(task, journal, Role.DELETING), Effect.DISCARD)


def _discard_nothing(task: HostTaskSpec, journal: Journal | None, _: PlacementSpec) -> Answer:
    return Acknowledge(TaskState.GONE, note=_nothing(task, journal))


def _nothing(task: HostTaskSpec, journal: Journal | None) -> Journal:
    """The journal of a host that holds nothing, and now refuses lower epochs."""
    step = JournalStep(seq=task.seq, verb=task.verb)
    fresh = Journal(uid=task.placement.name, epoch=task.epoch, epoch_id=task.epoch_id, role=Role.GONE, step=step)
    return fresh if journal is None else _at(task, journal, Role.GONE)


TABLE: Mapping[tuple[Role, Verb], Cell] = {
    (Role.NONE, Verb.CREATE): _create_new,
    (Role.GONE, Verb.CREATE): _create_new,
    (Role.INCOMING, Verb.CREATE): _create_again,
    (Role.ACTIVE, Verb.CREATE): _created_before,
    (Role.ACTIVE, Verb.START): _start,
    (Role.ACTIVE, Verb.STOP): _stop,
    (Role.NONE, Verb.PREPARE): _prepare_new,
    (Role.GONE, Verb.PREPARE): _prepare_new,
    (Role.INCOMING, Verb.PREPARE): _prepared_before,
    (Role.ACTIVE, Verb.PREPARE): _to_self,
    (Role.ACTIVE, Verb.PREFLIGHT): _preflight,
    (Role.SEALED, Verb.PREFLIGHT): _preflight,  # of a VM that is halted
    (Role.NONE, Verb.SEAL): _seal_nothing,
    (Role.GONE, Verb.SEAL): _seal_nothing,
    (Role.INCOMING, Verb.SEAL): _seal_incoming,
    (Role.VERIFIED, Verb.SEAL): _seal_incoming,
    (Role.ACTIVE, Verb.SEAL): _seal,
    (Role.SEALING, Verb.SEAL): _seal,
    (Role.SEALED, Verb.SEAL): _seal_stopped,
    (Role.RELEASED, Verb.SEAL): _seal_stopped,
    (Role.DELETING, Verb.SEAL): _seal_stopped,
    (Role.ACTIVE, Verb.COPY): _copy,
    (Role.SEALED, Verb.COPY): _copy,
    (Role.RELEASED, Verb.COPY): _copied_before,
    (Role.INCOMING, Verb.ACTIVATE): _activate_verified,
    (Role.VERIFIED, Verb.ACTIVATE): _activate_verified,
    (Role.ACTIVE, Verb.ACTIVATE): _activate,
    (Role.SEALING, Verb.ACTIVATE): _activate_sealing,
    (Role.SEALED, Verb.ACTIVATE): _activate_sealed,
    (Role.RELEASED, Verb.ACTIVATE): _activate_released,
    (Role.INCOMING, Verb.DISCARD): _discard,
    (Role.VERIFIED, Verb.DISCARD): _discard,
    (Role.SEALING, Verb.DISCARD): _discard,
    (Role.SEALED, Verb.DISCARD): _discard,
    (Role.RELEASED, Verb.DISCARD): _discard,
    (Role.DELETING, Verb.DISCARD): _discard,
    (Role.NONE, Verb.DISCARD): _discard_nothing,
    (Role.GONE, Verb.DISCARD): _discard_nothing,
}
"""The cells that act, or refuse by more than role and verb; all others refuse."""
