"""An in-memory API server that keeps the rules our writers rely on: compare-and-swap, uid preconditions, finalizers, status apart."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

from kubeferry.api.resources import RESOURCES
from kubeferry.kube.errors import AlreadyExists, Conflict, Invalid, KubeError, NotFound
from kubeferry.kube.server import Body, Endpoint, PatchType, Ref

_WITH_STATUS = {resource.plural for resource in RESOURCES if resource.status is not None}
_SERVERS_OWN = ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp")


class FakeServer:
    """A `kube.server.Server`. `requests` tells what was asked; `before` lets others act, or errors happen, before a request."""

    def __init__(self) -> None:
        self.objects: dict[Ref, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.before: dict[str, list[Callable[[], object] | KubeError]] = {}
        self._versions = itertools.count(1)
        self._version = 0
        self._uids = itertools.count(1)
        self._rest: dict[str, list[dict[str, Any]]] = {}
        self._applied: dict[tuple[Ref, str], dict[str, Any]] = {}

    async def get(self, ref: Ref) -> Body:
        self._asked("get", ref)
        return copy.deepcopy(self._stored("get", ref))

    async def page(self, endpoint: Endpoint, namespace: str, token: str, limit: int) -> Body:
        self._asked("list", Ref(endpoint, "*", namespace))
        found = self._rest.pop(token) if token else self._all(endpoint, namespace)
        metadata = {"resourceVersion": str(self._version)}
        if found[limit:]:
            metadata["continue"] = f"token-{len(self._rest) + 1}"
            self._rest[metadata["continue"]] = found[limit:]
        return {"metadata": metadata, "items": found[:limit]}

    async def create(self, ref: Ref, body: Body) -> Body:
        self._asked("create", ref)
        if ref in self.objects:
            raise AlreadyExists(f"create {ref}: HTTP 409: already exists")
        made = copy.deepcopy(dict(body))
        if ref.endpoint.plural in _WITH_STATUS:
            made.pop("status", None)
        metadata = made["metadata"]
        assert "uid" not in metadata, "a uid is the server's to give"
        assert "resourceVersion" not in metadata, "resourceVersion should not be set on objects to be created"
        metadata |= {"uid": f"uid-{next(self._uids)}", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
        return self._store(ref, made)

    async def replace(self, ref: Ref, body: Body) -> Body:
        self._asked("replace", ref)
        old = self._stored("replace", ref)
        new = copy.deepcopy(dict(body))
        self._check("replace", ref, old, new["metadata"])
        return self._update(ref, old, new)

    async def patch(self, ref: Ref, body: Body, kind: PatchType, *, status: bool, manager: str) -> Body:
        self._asked("patch status of" if status else "patch", ref)
        old = self._stored("patch", ref)
        metadata = body.get("metadata", {})
        self._check("patch", ref, old, {"resourceVersion": metadata.get("resourceVersion")})
        if not status and metadata.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            raise Invalid(f"patch {ref}: HTTP 422: metadata.uid: field is immutable")
        if kind == PatchType.APPLY:
            assert status, "only statuses are applied"
            new = old | {"status": self._apply(ref, old.get("status") or {}, body["status"], manager)}
        else:
            new = _merged(old, body)
        if status:
            return self._store(ref, old | {"status": new["status"]})
        return self._update(ref, old, new)

    async def delete(self, ref: Ref, uid: str) -> None:
        self._asked("delete", ref)
        old = self._stored("delete", ref)
        self._check("delete", ref, old, {"uid": uid})
        if old["metadata"].get("finalizers"):
            self._store(ref, old | {"metadata": old["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:01Z"}})
        else:
            del self.objects[ref]
            self._version = next(self._versions)

    def _asked(self, verb: str, ref: Ref) -> None:
        request = f"{verb} {ref}"
        self.requests.append(request)
        if waiting := self.before.get(request):
            act = waiting.pop(0)
            if isinstance(act, KubeError):
                raise act
            act()

    def _stored(self, verb: str, ref: Ref) -> dict[str, Any]:
        if ref not in self.objects:
            raise NotFound(f"{verb} {ref}: HTTP 404: not found")
        return self.objects[ref]

    def _all(self, endpoint: Endpoint, namespace: str) -> list[dict[str, Any]]:
        return [
            copy.deepcopy(body)
            for ref, body in sorted(self.objects.items(), key=lambda item: (item[0].namespace, item[0].name))
            if ref.endpoint == endpoint and namespace in ("", ref.namespace)
        ]

    def _check(self, verb: str, ref: Ref, old: dict[str, Any], preconditions: Body) -> None:
        for field in ("uid", "resourceVersion"):
            wanted = preconditions.get(field)
            if wanted is not None and wanted != old["metadata"][field]:
                raise Conflict(f"{verb} {ref}: HTTP 409: {field} is {old['metadata'][field]}, not {wanted}")

    def _update(self, ref: Ref, old: dict[str, Any], new: dict[str, Any]) -> Body:
        new["metadata"] |= {field: old["metadata"][field] for field in _SERVERS_OWN if field in old["metadata"]}
        if ref.endpoint.plural in _WITH_STATUS:
            new.pop("status", None)
            new |= {"status": old["status"]} if "status" in old else {}
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] += 1
        return self._store(ref, new)

    def _store(self, ref: Ref, body: dict[str, Any]) -> Body:
        """Store, with a new resourceVersion if anything changed; an object that was waiting for its last finalizer goes."""
        if body == self.objects.get(ref):
            return copy.deepcopy(body)
        self._version = next(self._versions)
        body = copy.deepcopy(body)
        body["metadata"]["resourceVersion"] = str(self._version)
        if body["metadata"].get("deletionTimestamp") and not body["metadata"].get("finalizers"):
            self.objects.pop(ref)
        else:
            self.objects[ref] = body
        return copy.deepcopy(body)

    def _apply(self, ref: Ref, old: Body, told: Body, manager: str) -> dict[str, Any]:
        """Server-side apply with force, as far as ours goes: fields at the top, and conditions by type."""
        before = self._applied.get((ref, manager), {})
        self._applied[ref, manager] = copy.deepcopy(dict(told))
        status = {k: v for k, v in old.items() if k not in before} | dict(told)
        gone = {c["type"] for c in before.get("conditions", ())}
        conditions = {c["type"]: c for c in old.get("conditions", ()) if c["type"] not in gone}
        conditions |= {c["type"]: c for c in told.get("conditions", ())}
        return status | ({"conditions": list(conditions.values())} if conditions else {})


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result
