"""How kopf is set up, for the controller and the agents alike: it lists and watches, and writes nothing."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import kopf

from kubeferry.api.names import GROUP
from kubeferry.kube import errors
from kubeferry.kube.client import Cluster, Stored, endpoint
from kubeferry.kube.rest import KUBECONFIG

STARTUP_RETRY = 2.0
"""Seconds until an API server that did not answer at the start is asked again."""


class _Backoffs:
    """Seconds between tries of kopf's requests. kopf iterates over the same object at every request, so it is no generator."""

    def __iter__(self) -> Iterator[float]:
        yield 0.5
        yield 1.0
        while True:
            yield 2.0


def configure(settings: kopf.OperatorSettings) -> None:
    """Set kopf up to list and watch only. The numbers were measured with 10,000 objects."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.queueing.idle_timeout = 0.2  # the default of 5 s costs 230 MiB
    settings.watching.chunk_size = 250
    settings.watching.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = _Backoffs()  # by default a watch may come back 21 s late


def watch_tasks_of(settings: kopf.OperatorSettings, node: str) -> None:
    """Let the API server send only the HostTasks of that node."""
    settings.watching.field_selectors[GROUP, "hosttasks"] = f"spec.node={node}"


def login(*, settings: kopf.OperatorSettings, **kwargs: Any) -> kopf.ConnectionInfo | None:
    """Credentials for kopf (`on.login`): from `KUBECONFIG` where it is set, else the pod's service account, as `RestServer.connect`."""
    if os.environ.get(KUBECONFIG):
        return kopf.login_with_kubeconfig(settings=settings, **kwargs)
    return kopf.login_with_service_account(settings=settings, **kwargs)


async def require_kinds(cluster: Cluster, kinds: Sequence[type[Stored]]) -> None:
    """Make sure, in `on.startup`, that every kind can be listed: kopf itself only warns of a missing one, and watches nothing.

    Raises:
        kopf.PermanentError: one can't; the message says what to do.
        kopf.TemporaryError: the API server does not answer yet.
    """
    for kind in kinds:
        served = endpoint(kind)
        with told_to_kopf():
            try:
                await anext(cluster.pages(kind, limit=1))
            except errors.NotFound:
                if served.group != GROUP:  # a Node, on an API server that is no whole cluster: our manifests bring none
                    raise
                name = f"{served.plural}.{GROUP}"
                raise kopf.PermanentError(f"the cluster has no {name}: install them with `kubectl apply -f manifests/crds.yaml`") from None


@contextmanager
def told_to_kopf() -> Iterator[None]:
    """Let a failed request in `on.startup` end or postpone the start: any other exception kopf would retry every 60 s in silence.

    Raises:
        kopf.TemporaryError: there was no answer; it is tried again.
        kopf.PermanentError: the answer was no.
    """
    try:
        yield
    except errors.Unavailable as error:
        raise kopf.TemporaryError(str(error), delay=STARTUP_RETRY) from None
    except errors.KubeError as error:
        raise kopf.PermanentError(f"{error} (reason {error.reason}; rights are in manifests/kubeferry.yaml)") from None
