"""The guards of the protocol, one function each, by the names that the model of the protocol gives them.

Each stands between a late, stale or misled actor and a VM's only disk; tests remove them one at a time and see what happens.
Callers reach them through this module (`guards.epoch(...)`), so that a test can replace one by its name. Four more live in the
agent, where the effect is: `transient` (`agent.virt`), `children_die` (`agent.transfer`), `stop_proved` (`agent.stopped`) and
`publish_first` (`agent.publisher`).
"""

import dataclasses
from collections.abc import Collection

from kubeferry.api.placement import Copy, Placement, PlacementSpec, StepState
from kubeferry.api.role import Role
from kubeferry.api.task import HostTaskSpec, ProofKind, TaskState, Verb
from kubeferry.core.journal import Journal
from kubeferry.core.observed import Host

# On a host


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


def gate_on_boot(task: HostTaskSpec | None) -> bool:
    """Every start goes through the start gate: what a task asks for, and what the agent does by itself after a boot (no task)."""
    return True


def still_asked(placement: PlacementSpec, task: HostTaskSpec) -> bool:
    """A Start or Stop is done only while the ledger waits for it: at one epoch a VM is stopped and started many times."""
    return any((s.seq, s.verb, s.epoch, s.state) == (task.seq, task.verb, task.epoch, StepState.PENDING) for s in placement.steps)


def supersede(running: HostTaskSpec, task: HostTaskSpec) -> bool:
    """A task of a higher epoch ends the lower one that runs, and waits until that is gone."""
    return task.epoch > running.epoch


def one_job(running: HostTaskSpec, task: HostTaskSpec) -> bool:
    """One task of a VM at a time: whatever comes waits until the one that runs has ended."""
    return True


def sealed_first(role: Role) -> bool:
    """Only a SEALED source is copied: asked by the controller of what the source has acknowledged, by the host of its journal."""
    return role == Role.SEALED


def verified(*, whole: bool) -> bool:
    """A copy is VERIFIED only if what was read back is what was sent, and only a VERIFIED copy is activated."""
    return whole


def discard_named(placement: PlacementSpec, journal: Journal, host_id: str) -> bool:
    """A host discards only the copy that the Placement names: one that its journal knows at no older an epoch.

    Whether a Prepare that was not waited for has made a copy is not known where it is given up. An older one, which the Prepare
    would have been refused for, is told by its epoch.
    """
    named = next((copy for copy in placement.copies if copy.host_id == host_id), None)
    return named is not None and placement.age(journal.epoch_id) <= placement.age(named.epoch_id)


def receiver_checks(journal: Journal, epoch: int, epoch_id: str, source: str) -> bool:
    """A receiver writes only to a copy of exactly the sender's epoch, and only for the source that it was prepared for."""
    of_this_move = (journal.epoch, journal.epoch_id, journal.source) == (epoch, epoch_id, source)
    return of_this_move and journal.role in (Role.INCOMING, Role.VERIFIED)


def proof_of_seal(task: HostTaskSpec) -> bool:
    """A RELEASED source is activated only with proof that the target is sealed or fenced."""
    proof = None if task.activate is None else task.activate.proof
    return proof is not None and proof.kind in (ProofKind.SEALED, ProofKind.FENCE)


# In the controller and on a host


def activate_needs_release(*, released: bool) -> bool:
    """The target is activated only after the source was RELEASED: asked of the ledger, and by the target of the task's proof."""
    return released


# In the controller


def cas(read: Placement) -> str:
    """The Placement is written by compare-and-swap: the resourceVersion that the write names; empty: whatever is there."""
    return read.metadata.resource_version


def seal_before_back(spec: PlacementSpec, target: Copy, *, fenced: bool) -> bool:
    """Back after RELEASED: the target is sealed at this epoch, or fenced, before the source is activated."""
    return fenced or _done(spec, Verb.SEAL, target.host_id)


def back_clears_node(spec: PlacementSpec) -> PlacementSpec:
    """Back after RELEASED takes the right to start the VM from the target in the write that asks for its Seal."""
    return dataclasses.replace(spec, node_name="", host_id="")


def fence_reread(spec: PlacementSpec, node: str) -> bool:
    """Whether a fenced host's ComputeNode must be read after this Placement, which has cleared nodeName, before its fence counts."""
    return True


def fence_boot(host: Host) -> bool:
    """A fence counts only for the boot that it names."""
    return host.fence == host.status.boot_id


def confirm_running(spec: PlacementSpec) -> bool:
    """Confirm needs RUNNING at this epoch in the ledger; READY, of a VM that is halted."""
    done = (step for step in spec.steps if step.epoch == spec.epoch and step.state == StepState.SUCCEEDED)
    told = {(step.verb, step.result.state) for step in done if step.result is not None}
    started = not spec.running or (Verb.START, TaskState.RUNNING) in told  # after an Activate that found it halted
    return (Verb.ACTIVATE, TaskState.RUNNING) in told or ((Verb.ACTIVATE, TaskState.READY) in told and started)


def confirm_fresh(spec: PlacementSpec, target: Host | None, live: Collection[str]) -> bool:
    """Confirm needs the target's own word of now: a fresh Lease, and an inventory that says ACTIVE at this epoch's id.

    An agent renews its Lease only after its inventory stands in the API.
    """
    if target is None or target.name not in live or not target.lease_fresh or target.status.host_id != spec.host_id:
        return False
    copy = target.copy_of(spec.virtual_machine.uid)
    return copy is not None and copy.role == Role.ACTIVE and copy.epoch_id == spec.epoch_id


def discard_after_decision(spec: PlacementSpec, copy: Copy) -> bool:
    """A copy is discarded only once it was marked: the direction has settled, or an attempt was given up before the Seal."""
    return copy.discard is not None


def delete_seals(spec: PlacementSpec, fenced: Collection[str]) -> bool:
    """Deletion seals every copy, or has it fenced, before it discards the first: `fenced` are the ids of such hosts."""
    return all(copy.host_id in fenced or _done(spec, Verb.SEAL, copy.host_id) for copy in spec.copies)


def delete_clears_node(spec: PlacementSpec) -> PlacementSpec:
    """Deletion takes the right to start the VM from every host in the write that takes the lock."""
    return dataclasses.replace(spec, node_name="", host_id="")


def _done(spec: PlacementSpec, verb: Verb, host_id: str) -> bool:
    return any(s.verb == verb and s.host_id == host_id and s.epoch == spec.epoch and s.state == StepState.SUCCEEDED for s in spec.steps)
