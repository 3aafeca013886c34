"""Listing what is watched: it fills the Store, and finds what went while nobody told us."""

from kubeferry.controller.store import KINDS, Keys, Store
from kubeferry.kube.client import Cluster, Stored


class Relister:
    """Lists every kind. kopf announces everything after it lost its watch, but no deletions: those are found here."""

    def __init__(self, cluster: Cluster, store: Store) -> None:
        self._cluster = cluster
        self._store = store
        self._versions: dict[type[Stored], int] = {}

    async def relist(self) -> Keys:
        """List everything once; the VMs to look at.

        Raises:
            kubeferry.kube.errors.KubeError: a list failed; what came until then is in the Store.
        """
        keys: Keys = frozenset()
        for kind in KINDS:
            keys |= await self._relist(kind)
        return keys

    async def _relist(self, kind: type[Stored]) -> Keys:
        # What is not in a list, but was known before the list was asked for, is gone.
        ghosts = dict(self._store.known(kind))
        newest = max(self._store.newest(kind), self._versions.get(kind, 0))
        keys: set[str] = set()
        async for page in self._cluster.pages(kind):
            # A list older than what was seen before it: etcd was restored, and what it holds now counts although its versions are lower.
            restored = int(page.resource_version) < newest
            for body in page.items:
                metadata = body["metadata"]
                ghosts.pop((metadata.get("namespace", ""), metadata["name"]), None)
                keys |= self._store.put(kind, body, anyway=restored)
            version = int(page.resource_version)
        self._versions[kind] = version
        for place, uid in ghosts.items():
            keys |= self._store.drop(kind, place, uid)
        return frozenset(keys)
