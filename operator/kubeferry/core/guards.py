"""The guards of the protocol, one function each, by the names that the model of the protocol gives them.

Each stands between a late, stale or misled actor and a VM's only disk; tests remove them one at a time and see what happens.
Callers reach them through this module (`guards.epoch(...)`), so that a test can replace one by its name.
"""

from kubeferry.api.placement import PlacementSpec


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
