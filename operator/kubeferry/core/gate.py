"""Who may start the VM's copy on a host, and who may fill it: asked of Placement and journal before each start and each byte."""

from kubeferry.api import reasons
from kubeferry.api.placement import PlacementSpec
from kubeferry.api.role import Role
from kubeferry.api.task import HostTaskSpec
from kubeferry.core import guards
from kubeferry.core.host import Refuse
from kubeferry.core.journal import Journal


def receive(journal: Journal | None, uid: str, epoch: int, epoch_id: str, source: str) -> Refuse | None:
    """Whether another host may fill the copy here.

    Args:
        journal: this host's journal of the VM; None: nothing.
        uid: the VM.
        epoch: at which the other host works.
        epoch_id: id of that epoch.
        source: the node that the other host is, as its key tells.

    Returns:
        None if it may, and then the copy is INCOMING, or VERIFIED (whole already: nothing is written any more); else why not.
    """
    if journal is not None and guards.receiver_checks(journal, epoch, epoch_id, source):
        return None
    seen = (
        "holds none"
        if journal is None
        else f"holds one that is {journal.role}, of epoch {journal.epoch}, from {journal.source or 'nowhere'}"
    )
    message = f"a copy of VM {uid} that {source} may fill at epoch {epoch} was expected here; this host {seen}. Nothing was written"
    return Refuse(reasons.NOT_INCOMING, message)


def start(placement: PlacementSpec, journal: Journal, node: str, host_id: str, task: HostTaskSpec | None) -> Refuse | None:
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
    if not guards.gate_on_boot(task):
        return None
    shut = None
    if not guards.gate_node(placement, node, host_id):
        shut = f"the Placement names {placement.node_name or 'no node'} (host {placement.host_id or 'none'}), not {node} (host {host_id})"
    elif not placement.running:
        return Refuse(reasons.HALTED, "its run strategy keeps the VM stopped", retryable=True)
    elif journal.role != Role.ACTIVE:
        shut = f"the copy here is {journal.role}, not ACTIVE"
    elif not guards.lineage(placement, journal.epoch_id, host_id):
        return Refuse(reasons.HISTORY_DIVERGED, f"the journal's epoch id {journal.epoch_id} is not in the Placement's lineage")
    elif not _is_to_run_with(placement, journal, node):
        shut = "the Placement wants the VM to have other CPUs or memory by now: the task that starts it brings them"
    elif task is not None and task.epoch != placement.epoch:
        shut = f"the task is of epoch {task.epoch}, the Placement is at {placement.epoch}"
    return None if shut is None else Refuse(reasons.GATE_SHUT, shut)


def _is_to_run_with(placement: PlacementSpec, journal: Journal, node: str) -> bool:
    """Whether the journal's domain has the CPUs and the memory that the VM is to have there."""
    move = placement.move
    wanted = move.domain if move is not None and node == move.target else placement.domain
    held = journal.domain
    return held is not None and (held.cpu_cores, held.memory) == (wanted.cpu_cores, wanted.memory)
