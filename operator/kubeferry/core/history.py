"""Whether etcd went back behind what the hosts have done: then nothing starts, moves or is deleted until a human has looked."""

from kubeferry.api import reasons
from kubeferry.api.computenode import InventoryItem
from kubeferry.api.placement import Copy, Direction, PlacementSpec
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.core import guards
from kubeferry.core.observed import Host, Observed


def diverged(spec: PlacementSpec, observed: Observed) -> str | None:
    """What each host holds, if one of them tells of what this Placement can't have asked of it; None: none does."""
    uid = spec.virtual_machine.uid
    held = [(host, copy) for host in observed.hosts if host.holds(uid) and (copy := host.copy_of(uid)) is not None]
    strange = [host.name for host, copy in held if _is_strange(spec, host, copy)]
    refused = [s.node for s in spec.steps if s.epoch == spec.epoch and s.error is not None and s.error.reason == reasons.HISTORY_DIVERGED]
    if not strange and not refused:
        return None
    holds = ", ".join(f"{host.name} holds {copy.role} of epoch {copy.epoch} ({copy.epoch_id})" for host, copy in held)
    return (
        f"{', '.join(dict.fromkeys([*strange, *refused]))} did what this Placement (epoch {spec.epoch}, {spec.epoch_id}) does not know of: "
        f"was etcd restored from a backup? {holds or 'no host tells of a copy'}. Nothing is started, moved or deleted until a human decides"
    )


def _is_strange(spec: PlacementSpec, host: Host, copy: InventoryItem) -> bool:
    if not guards.lineage(spec, copy.epoch_id, host.status.host_id):
        return True
    known = next((c for c in spec.copies if c.host_id == host.status.host_id), None)
    if known is None:  # a host that was replaced is told as such; of an older epoch it is what was told before a discard
        current = spec.age(copy.epoch_id) == 0
        return current and copy.role == Role.ACTIVE and all(host.name != c.node for c in spec.copies)
    if spec.age(copy.epoch_id) > spec.age(known.epoch_id):  # old news
        return False
    if copy.role == Role.ACTIVE:
        return host.status.host_id != spec.host_id and not _may_be_active(spec, known)
    # The VM is to live there, and its host has sealed it at an epoch at which nobody has asked for that.
    return spec.lock is None and host.status.host_id == spec.host_id and spec.age(copy.epoch_id) < spec.age(known.epoch_id)


def _may_be_active(spec: PlacementSpec, copy: Copy) -> bool:
    """Whether a host that may not start the VM was asked to do so once, or is to be sealed for it."""
    asked = any(s.verb == Verb.ACTIVATE and s.host_id == copy.host_id for s in spec.steps)
    forward = spec.move is not None and spec.move.direction == Direction.FORWARD
    return asked or copy.unsealed or (spec.lock is not None and not forward)
