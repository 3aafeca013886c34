"""All reads of a pass, for one VM."""

from collections.abc import Callable

from kubeferry.api.placement import Placement
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller.store import Store
from kubeferry.core.observed import Host, Observed
from kubeferry.kube.client import Cluster
from kubeferry.kube.errors import NotFound
from kubeferry.kube.leases import LeaseWatch


class Gatherer:
    """Reads what is known of a VM."""

    def __init__(self, cluster: Cluster, store: Store, leases: LeaseWatch, clock: Callable[[], float]) -> None:
        """Read from these; `clock` is that of `leases`, in seconds."""
        self._cluster = cluster
        self._store = store
        self._leases = leases
        self._clock = clock

    async def gather(self, uid: str) -> Observed:
        """All that is known of the VM of that uid.

        Its Placement is read consistently, and so is a VM without one; the rest is what watching has seen.

        Raises:
            kubeferry.kube.errors.KubeError: a read failed.
        """
        placement = await self._placement(uid)
        vm = await self._vm(uid, placement)
        return Observed(vm=vm, placement=placement, tasks=self._store.tasks(uid), hosts=self._hosts())

    async def _placement(self, uid: str) -> Placement | None:
        try:
            return await self._cluster.get(Placement, uid)
        except NotFound:
            return None

    async def _vm(self, uid: str, placement: Placement | None) -> VirtualMachine | None:
        """The VM: as watching has seen it where it is placed, else read live.

        A first Placement gives a node the right to start the VM, which no late news of its deletion takes back; and nothing may
        be concluded from a gap in what watching has seen.
        """
        seen = self._store.vm(uid)
        if seen is not None and placement is not None:
            return seen
        if seen is not None:
            name, namespace = seen.metadata.name, seen.metadata.namespace
        elif placement is not None:
            name, namespace = placement.spec.virtual_machine.name, placement.spec.virtual_machine.namespace
        else:
            return None
        try:
            vm = await self._cluster.get(VirtualMachine, name, namespace)
        except NotFound:
            return None
        return vm if vm.metadata.uid == uid else None

    def _hosts(self) -> tuple[Host, ...]:
        now = self._clock()
        return tuple(
            Host(name=name, status=node.status, lease_fresh=self._leases.fresh(name, now))
            for node in self._store.hosts()
            if node.status is not None and (name := node.metadata.name)
        )
