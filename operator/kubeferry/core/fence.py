"""A fence: a human attests that one boot of a host is dead. It stands for the proof that this host has sealed its copy."""

from kubeferry.api.placement import Copy, PlacementSpec
from kubeferry.core import guards
from kubeferry.core.observed import Observed


def fenced(spec: PlacementSpec, copy: Copy, observed: Observed) -> bool:
    """Whether the host of a copy is attested dead, and can't have started the VM since.

    The order is the proof: first nodeName was cleared, then its ComputeNode was read. A host that came back in between has
    published its new bootId before it asked the start gate, so one of the two reads sees it.
    """
    host = observed.host(copy.node)
    if host is None or host.fence is None or host.status.host_id != copy.host_id or host.lease_fresh is not False:
        return False
    read = copy.node in observed.live or not guards.fence_reread(spec, copy.node)
    return guards.fence_boot(host) and read
