"""The API server as raw requests: what `Cluster` is built on, and what tests stand in for."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

Body = Mapping[str, Any]
"""A decoded JSON object, as the API server sends and takes it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a kind is served."""

    group: str
    """Empty: core."""
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """As objects tell it."""
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True, slots=True)
class Ref:
    """One object; `namespace` is empty for what is cluster-scoped."""

    endpoint: Endpoint
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        path = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.endpoint.kind} {path}"


class PatchType(StrEnum):
    """How a patch is read (its content type)."""

    MERGE = "application/merge-patch+json"
    """RFC 7386."""
    APPLY = "application/apply-patch+yaml"
    """Server-side apply (KEP-555)."""


class Server(Protocol):
    """Requests to an API server. Each ends within its time limit, and raises `errors.KubeError` if it fails."""

    async def get(self, ref: Ref) -> Body:
        """The object as the storage has it now (a consistent read: no resourceVersion is sent)."""

    async def page(self, endpoint: Endpoint, namespace: str, token: str, limit: int) -> Body:
        """One page of a consistent list: of all namespaces if `namespace` is empty, from the start if `token` is."""

    async def create(self, ref: Ref, body: Body) -> Body:
        """Create; gives back what was stored."""

    async def replace(self, ref: Ref, body: Body) -> Body:
        """Replace (update); a stale `metadata.resourceVersion` in the body is a `Conflict`."""

    async def patch(self, ref: Ref, body: Body, kind: PatchType, *, status: bool, manager: str) -> Body:
        """Patch the object, or its status alone; a `metadata.resourceVersion` or `uid` in the body is a precondition."""

    async def delete(self, ref: Ref, uid: str) -> None:
        """Delete the object with that uid; another one of the same name is a `Conflict`."""
