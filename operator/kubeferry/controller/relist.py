"""Listing what is watched: it fills the Store, and finds what went while nobody told us."""

from collections.abc import AsyncIterator

from kubeferry.controller.store import KINDS, Keys, Store
from kubeferry.kube.client import Cluster, Stored


class Relister:
    """Lists every kind. kopf announces everything after it lost its watch, but no deletions: those are found here."""

    def __init__(self, cluster: Cluster, store: Store) -> None:
        self._cluster = cluster
        self._store = store
        self._versions: dict[type[Stored], int] = {}

    async def relist(self) -> AsyncIterator[Keys]:
        """List everything once; the VMs to look at, as they are found: of what came before a list broke off, no later one has news.

        Raises:
            kubeferry.kube.errors.KubeError: a list failed; what came until then is in the Store.
        """
        for kind in KINDS:
            async for keys in self._relist(kind):
                yield keys

    async def _relist(self, kind: type[Stored]) -> AsyncIterator[Keys]:
        # What is not in a list, but was known before the list was asked for, is gone.
        ghosts = dict(self._store.known(kind))
        newest = max(self._store.newest(kind), self._versions.get(kind, 0))
        async for page in self._cluster.pages(kind):
            version = int(page.resource_version)
            # Versions that fall tell that etcd was restored: the list's, below what was seen before it; or an object's, below one that is
            # held and older than the list. What etcd holds now counts, but for what came while the list was read.
            shows = max(version, newest)
            for body in page.items:
                metadata = body["metadata"]
                ghosts.pop((metadata.get("namespace", ""), metadata["name"]), None)
                yield self._store.put(kind, body, listed=shows)
        self._versions[kind] = version
        for place, uid in ghosts.items():
            yield self._store.drop(kind, place, uid)
