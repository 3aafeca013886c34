"""Writing Kubernetes Events (events.k8s.io/v1): what `kubectl describe` shows below an object."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from kubeferry.api.meta import Meta
from kubeferry.api.model import rfc3339
from kubeferry.kube.client import Stored, endpoint
from kubeferry.kube.errors import AlreadyExists
from kubeferry.kube.server import Body, Endpoint, Ref, Server

EVENTS = Endpoint(group="events.k8s.io", version="v1", plural="events", kind="Event", namespaced=True)
NOTE_LENGTH = 1024
"""Bytes that the API server takes."""
_NAME_LENGTH = 253 - 17


@dataclass(frozen=True, slots=True)
class Occurrence:
    """What is to be told: fields of `events.k8s.io/v1 Event`."""

    reason: str
    note: str
    action: str
    type: str
    """Normal or Warning."""


async def write_event(
    server: Server, kind: type[Stored], meta: Meta, what: Occurrence, *, controller: str, instance: str, now: datetime
) -> None:
    """Tell an event of a namespaced object; told already, it is not told again.

    Args:
        server: whom to ask.
        kind: of the object.
        meta: of the version of the object that it happened to: with what happened it gives the Event its name.
        what: what has happened.
        controller: who reports it (`kubeferry.io/controller`).
        instance: which process of these.
        now: the time, in UTC.

    Raises:
        kubeferry.kube.errors.KubeError: it was not told.
    """
    about = "/".join((meta.uid, meta.resource_version, what.reason, what.note))
    name = f"{meta.name[:_NAME_LENGTH]}.{hashlib.sha256(about.encode()).hexdigest()[:16]}"
    body = {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"name": name, "namespace": meta.namespace},
        "eventTime": rfc3339(now),
        "reportingController": controller,
        "reportingInstance": instance[:128],
        "action": what.action,
        "reason": what.reason,
        "regarding": _regarding(kind, meta),
        "note": what.note.encode()[:NOTE_LENGTH].decode(errors="ignore"),
        "type": what.type,
    }
    try:
        await server.create(Ref(EVENTS, name, meta.namespace), body)
    except AlreadyExists:
        return


def _regarding(kind: type[Stored], meta: Meta) -> Body:
    """A `corev1.ObjectReference`."""
    served = endpoint(kind)
    names = {"namespace": meta.namespace, "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version}
    return {"apiVersion": served.api_version, "kind": served.kind} | names
