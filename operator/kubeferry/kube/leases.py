"""Agents' Leases: whose agent is alive. A Lease bears its node's name and lies in the operator's namespace."""

import time
from collections.abc import Mapping
from datetime import datetime, timedelta

from kubeferry.api.model import rfc3339
from kubeferry.kube.client import PAGE_SIZE
from kubeferry.kube.errors import NotFound
from kubeferry.kube.server import Endpoint, PatchType, Ref, Server

FRESH_FOR = timedelta(seconds=40)
"""A Lease is fresh for so long after it was seen to change."""
RENEWED_EVERY = timedelta(seconds=10)
"""How often an agent renews its own, and how often they are looked at."""

LEASES = Endpoint(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease", namespaced=True)


def boottime() -> float:
    """Seconds of a clock that goes on while the machine sleeps: a Lease must not stay fresh through that."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseWatch:
    """When *we* saw each Lease change, by our own clock: whatever an agent's clock says is harmless.

    A Lease seen for the first time may be years old: whether it is fresh is not known until it changes, which a living one
    does within 10 s, or 40 s have passed.
    """

    def __init__(self) -> None:
        self._renewals: dict[str, str] = {}
        self._first_seen: dict[str, float] = {}
        self._changed_at: dict[str, float] = {}
        self._were: dict[str, bool | None] = {}

    def saw(self, renewals: Mapping[str, str], now: float) -> frozenset[str]:
        """Take in what `read_leases` gave; the nodes of which something else is known than after the last time.

        Args:
            renewals: renewTime by node, as it is written.
            now: seconds of a clock that never goes back.
        """
        for node, renewed in renewals.items():
            self._first_seen.setdefault(node, now)
            if self._renewals.get(node, renewed) != renewed:
                self._changed_at[node] = now
        self._renewals = dict(renewals)
        self._first_seen = {node: at for node, at in self._first_seen.items() if node in renewals}
        self._changed_at = {node: at for node, at in self._changed_at.items() if node in renewals}
        were, self._were = self._were, {node: self.fresh(node, now) for node in renewals}
        return frozenset(node for node in were.keys() | self._were.keys() if were.get(node, False) != self._were.get(node, False))

    def fresh(self, node: str, now: float) -> bool | None:
        """Whether that node's Lease was seen to change within the last 40 s; None: it is watched for less, and did not change yet."""
        if node in self._changed_at:
            return now - self._changed_at[node] <= FRESH_FOR.total_seconds()
        if node in self._first_seen and now - self._first_seen[node] <= FRESH_FOR.total_seconds():
            return None
        return False

    @property
    def undecided(self) -> bool:
        """Whether there was a Lease, at the last look, of which it is not known whether it is fresh."""
        return None in self._were.values()


async def read_leases(server: Server, namespace: str) -> dict[str, str]:
    """The renewTime of every Lease of a namespace, by name."""
    renewals: dict[str, str] = {}
    token = ""
    while True:
        body = await server.page(LEASES, namespace, token, PAGE_SIZE)
        renewals |= {item["metadata"]["name"]: (item.get("spec") or {}).get("renewTime", "") for item in body["items"]}
        token = body["metadata"].get("continue") or ""
        if not token:
            return renewals


async def renew_lease(server: Server, namespace: str, node: str, holder: str, now: datetime) -> None:
    """Renew a node's Lease, and create it if there is none.

    Args:
        server: whom to ask.
        namespace: the operator's.
        node: the agent's own node; the Lease's name.
        holder: identity of the host.
        now: the time, in UTC.
    """
    ref = Ref(LEASES, node, namespace)
    spec = {"holderIdentity": holder, "leaseDurationSeconds": int(FRESH_FOR.total_seconds()), "renewTime": rfc3339(now)}
    try:
        await server.patch(ref, {"spec": spec}, PatchType.MERGE, status=False, manager="kubeferry-agent")
    except NotFound:
        metadata = {"name": node, "namespace": namespace}
        await server.create(ref, {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec})
