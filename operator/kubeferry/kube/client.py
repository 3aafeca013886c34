"""The cluster as our models: typed reads, and writes that say on which state they build."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from kubeferry.api.meta import Meta
from kubeferry.api.model import adapter, dump, load
from kubeferry.api.names import API_VERSION, GROUP, VERSION
from kubeferry.api.node import Node
from kubeferry.api.resources import BY_MODEL
from kubeferry.kube.errors import NotFound, Unreadable
from kubeferry.kube.server import Body, Endpoint, PatchType, Ref, Server

PAGE_SIZE = 250
"""Objects of one page of a list: it bounds what is held undecoded at a time."""


class Stored(Protocol):
    """A model of a whole object."""

    @property
    def metadata(self) -> Meta:
        """Its metadata."""


S = TypeVar("S", bound=Stored)


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list."""

    resource_version: str
    """Of the list as a whole: the state of the storage that it shows."""
    items: Sequence[Body]


_NODES = Endpoint(group="", version="v1", plural="nodes", kind="Node", namespaced=False)


_CRDS = Endpoint(
    group="apiextensions.k8s.io", version="v1", plural="customresourcedefinitions", kind="CustomResourceDefinition", namespaced=False
)


@cache
def endpoint(kind: type[Stored]) -> Endpoint:
    """Where one of our kinds, or Node, is served."""
    if kind is Node:
        return _NODES
    resource = BY_MODEL[kind]
    return Endpoint(group=GROUP, version=VERSION, plural=resource.plural, kind=resource.kind, namespaced=resource.namespaced)


class Cluster:
    """Typed requests. Each may raise any `errors.KubeError`; named below are those that a caller can act on."""

    def __init__(self, server: Server, manager: str) -> None:
        """Ask `server` in the name of the field manager `manager` (`kubeferry-controller`, say)."""
        self.server = server
        self.manager = manager

    async def get(self, kind: type[S], name: str, namespace: str = "") -> S:
        """The object as the storage has it now: no cache answers.

        Raises:
            NotFound: there is none.
            Unreadable: the model refuses what is stored.
        """
        ref = Ref(endpoint(kind), name, namespace)
        return _load(kind, ref, await self.server.get(ref))

    async def pages(self, kind: type[Stored], limit: int = PAGE_SIZE, namespace: str = "") -> AsyncIterator[Page]:
        """A consistent list of a kind, page by page, undecoded: one bad object must not hide the others.

        Args:
            kind: which.
            limit: objects a page.
            namespace: the only one; empty: all.
        """
        token = ""
        while True:
            body = await self.server.page(endpoint(kind), namespace, token, limit)
            yield Page(resource_version=body["metadata"]["resourceVersion"], items=body["items"])
            token = body["metadata"].get("continue") or ""
            if not token:
                return

    async def kinds_stay(self) -> bool:
        """Whether none of our kinds is being removed: what is deleted with its kind was not meant by whoever deleted that."""
        for resource in BY_MODEL.values():
            try:
                definition = await self.server.get(Ref(_CRDS, f"{resource.plural}.{GROUP}"))
            except NotFound:
                return False
            if definition["metadata"].get("deletionTimestamp"):
                return False
        return True

    async def create(self, kind: type[S], meta: Meta, *, spec: object | None = None, owners: Sequence[Body] = ()) -> S:
        """Create an object with a name, labels and finalizers of `meta`; gives back what was stored.

        Raises:
            AlreadyExists: one of that name is there.
        """
        ref = Ref(endpoint(kind), meta.name, meta.namespace)
        metadata = _identity(meta) | {"ownerReferences": list(owners)}
        return _load(kind, ref, await self.server.create(ref, _object(ref, metadata, spec)))

    async def replace(self, kind: type[S], meta: Meta, spec: object) -> S:
        """Replace an object by compare-and-swap: `meta` is that of the version that was read.

        Raises:
            Conflict: it was written since.
            NotFound: it is gone.
        """
        ref = Ref(endpoint(kind), meta.name, meta.namespace)
        metadata = _identity(meta) | {"uid": meta.uid, "resourceVersion": meta.resource_version}
        return _load(kind, ref, await self.server.replace(ref, _object(ref, metadata, spec)))

    async def patch_status(self, kind: type[S], meta: Meta, status: object) -> S:
        """Make the status of whatever object has that name now exactly `status`.

        Fields that `status` has no value for are removed; those that its model does not know stay. No uid can guard this: in a
        patch of a status, the API server leaves all metadata aside but the resourceVersion.

        Raises:
            NotFound: it is gone.
        """
        return await self._patch_status(kind, meta, {"status": _with_nulls(status)})

    async def swap_status(self, kind: type[S], meta: Meta, status: object) -> S:
        """Do as `patch_status`, by compare-and-swap: `meta` is that of the version that was read.

        Raises:
            Conflict: it was written since, or another object has that name now.
            NotFound: it is gone.
        """
        return await self._patch_status(kind, meta, {"metadata": {"resourceVersion": meta.resource_version}, "status": _with_nulls(status)})

    async def _patch_status(self, kind: type[S], meta: Meta, body: Body) -> S:
        ref = Ref(endpoint(kind), meta.name, meta.namespace)
        return _load(kind, ref, await self.server.patch(ref, body, PatchType.MERGE, status=True, manager=self.manager))

    async def apply_status(self, kind: type[S], name: str, status: object) -> S:
        """Tell our part of a cluster-scoped object's status by server-side apply: what others told of it stays.

        Raises:
            NotFound: apply on a status creates no object.
        """
        ref = Ref(endpoint(kind), name)
        body = {"apiVersion": API_VERSION, "kind": ref.endpoint.kind, "metadata": {"name": name}, "status": dump(status)}
        return _load(kind, ref, await self.server.patch(ref, body, PatchType.APPLY, status=True, manager=self.manager))

    async def patch_finalizers(self, kind: type[S], meta: Meta, finalizers: Sequence[str]) -> S:
        """Set the finalizers by compare-and-swap: `meta` is that of the version that was read.

        Raises:
            Conflict: it was written since.
            NotFound: it is gone.
        """
        ref = Ref(endpoint(kind), meta.name, meta.namespace)
        metadata = {"resourceVersion": meta.resource_version, "finalizers": list(finalizers)}
        return _load(kind, ref, await self.server.patch(ref, {"metadata": metadata}, PatchType.MERGE, status=False, manager=self.manager))

    async def patch_spec(self, kind: type[S], meta: Meta, spec: object) -> S:
        """Make the spec exactly `spec` by compare-and-swap: `meta` is that of the version that was read; all else stays.

        Raises:
            Conflict: it was written since.
            NotFound: it is gone.
        """
        return await self.merge_spec(kind, meta, _with_nulls(spec))

    async def merge_spec(self, kind: type[S], meta: Meta, changes: Body) -> S:
        """Merge into the spec (RFC 7386), by compare-and-swap as `patch_spec`: what people wrote beside it stays as they wrote it."""
        ref = Ref(endpoint(kind), meta.name, meta.namespace)
        body = {"metadata": {"resourceVersion": meta.resource_version}, "spec": changes}
        return _load(kind, ref, await self.server.patch(ref, body, PatchType.MERGE, status=False, manager=self.manager))

    async def delete(self, kind: type[Stored], meta: Meta) -> None:
        """Delete the object of `meta.uid`.

        Raises:
            Conflict: another object has that name now.
            NotFound: it is gone.
        """
        await self.server.delete(Ref(endpoint(kind), meta.name, meta.namespace), meta.uid)


def owner_reference(kind: type[Stored], meta: Meta) -> Body:
    """What makes an object the managed child of another (`metav1.OwnerReference`); the owner's deletion does not wait for it."""
    names = {"name": meta.name, "uid": meta.uid}
    return {"apiVersion": API_VERSION, "kind": endpoint(kind).kind, "controller": True, "blockOwnerDeletion": False} | names


def _identity(meta: Meta) -> dict[str, Any]:
    namespace = {"namespace": meta.namespace} if meta.namespace else {}
    return {"name": meta.name, "labels": dict(meta.labels), "finalizers": list(meta.finalizers)} | namespace


def _object(ref: Ref, metadata: Mapping[str, Any], spec: object | None) -> Body:
    body = {"apiVersion": ref.endpoint.api_version, "kind": ref.endpoint.kind, "metadata": metadata}
    return body if spec is None else body | {"spec": dump(spec)}


def _load(kind: type[S], ref: Ref, body: Body) -> S:
    try:
        return load(kind, body)
    except ValidationError as error:
        raise Unreadable(f"{ref} is not what this version of kubeferry takes for a {ref.endpoint.kind}: {error}") from error


def _with_nulls(value: object) -> Any:
    """The JSON of a model as a merge patch that removes what has no value; in lists, which are replaced whole, no null is kept."""
    return _clean(adapter(type(value)).dump_python(value, mode="json", by_alias=True), in_list=False)


def _clean(value: Any, *, in_list: bool) -> Any:
    if isinstance(value, dict):
        return {k: _clean(v, in_list=in_list) for k, v in value.items() if not (in_list and v is None)}
    if isinstance(value, list):
        return [_clean(v, in_list=True) for v in value]
    return value
