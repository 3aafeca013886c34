"""Whether etcd went back behind what the hosts have done: then nothing starts, moves or is deleted until a human has looked."""

from kubeferry.api import reasons
from kubeferry.api.placement import PlacementSpec
from kubeferry.core import guards
from kubeferry.core.observed import Observed


def diverged(spec: PlacementSpec, observed: Observed) -> str | None:
    """What each host holds, if one of them tells of an epoch that is not of this Placement's history; None: none does."""
    uid = spec.virtual_machine.uid
    held = [(host, copy) for host in observed.hosts if host.holds(uid) and (copy := host.copy_of(uid)) is not None]
    strange = [host.name for host, copy in held if not guards.lineage(spec, copy.epoch_id, host.status.host_id)]
    refused = [s.node for s in spec.steps if s.epoch == spec.epoch and s.error is not None and s.error.reason == reasons.HISTORY_DIVERGED]
    if not strange and not refused:
        return None
    holds = ", ".join(f"{host.name} holds {copy.role} of epoch {copy.epoch} ({copy.epoch_id})" for host, copy in held)
    return (
        f"{', '.join(dict.fromkeys([*strange, *refused]))} did what this Placement (epoch {spec.epoch}, {spec.epoch_id}) does not know of: "
        f"was etcd restored from a backup? {holds or 'no host tells of a copy'}. Nothing is started, moved or deleted until a human decides"
    )
