"""Requests to a real API server, by the official asynchronous client.

Only its CustomObjectsApi is used, for Leases and Nodes too: the typed modules of Core and Coordination cost another 25 MiB.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Mapping
from typing import Any, cast

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration, CustomObjectsApi

from kubeferry import __version__
from kubeferry.kube import errors
from kubeferry.kube.server import Body, Endpoint, PatchType, Ref

REQUEST_TIMEOUT = 30.0
"""Seconds that one request may take in all."""

KUBECONFIG = "KUBECONFIG"
"""Names the file to connect with; where it is not set, the pod's service account is used."""

_config: Any = config  # its functions have no types
_BY_STATUS: Mapping[int, type[errors.KubeError]] = {
    400: errors.Invalid,
    401: errors.Forbidden,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    410: errors.Unavailable,  # a list's continuation has expired: it is to be begun anew
    413: errors.Invalid,
    415: errors.Invalid,
    422: errors.Invalid,
    429: errors.Unavailable,
}


class _Client(ApiClient):
    """Serves the core group to CustomObjectsApi, which knows the paths of the named groups alone."""

    async def param_serialize(self, method: str, resource_path: str, path_params: Any = None, *args: Any, **more: Any) -> Any:
        if path_params and path_params.get("group") == "":
            resource_path = resource_path.replace("/apis/{group}/", "/api/")
        return await super().param_serialize(method, resource_path, path_params, *args, **more)


class RestServer:
    """A `Server` over HTTPS."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._api: Any = CustomObjectsApi(client)

    @classmethod
    async def connect(cls) -> "RestServer":
        """Read the configuration (`KUBECONFIG`, or the pod's service account); nothing is asked of the server yet.

        Raises:
            NotConfigured: there is neither, or it can't be used.
        """
        settings = Configuration()
        path = os.environ.get(KUBECONFIG)
        try:
            if path:
                await _config.load_kube_config(config_file=path, client_configuration=settings, persist_config=False)
            else:
                _config.load_incluster_config(client_configuration=settings)
        except config.ConfigException as error:
            where = f"{KUBECONFIG}={path}" if path else f"{KUBECONFIG} is not set, and the pod's service account can't be used"
            raise errors.NotConfigured(f"{where}: {error}") from error
        client = _Client(settings)
        client.user_agent = f"kubeferry/{__version__}"  # its first word is the field manager of creates and replaces
        return cls(client)

    async def close(self) -> None:
        """End every connection."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, ref: Ref) -> Body:
        """See `Server.get`."""
        call = self._method("get", ref.endpoint, "")
        return await _answer("get", ref, call(**_place(ref.endpoint, ref.namespace), name=ref.name, _request_timeout=REQUEST_TIMEOUT))

    async def page(self, endpoint: Endpoint, namespace: str, token: str, limit: int) -> Body:
        """See `Server.page`."""
        verb = "list_namespaced" if namespace else "list_cluster"
        call = getattr(self._api, f"{verb}_custom_object")
        more = {"_continue": token} if token else {}
        place = _place(endpoint, namespace) if namespace else _place(endpoint)
        return await _answer("list", Ref(endpoint, "*", namespace), call(**place, **more, limit=limit, _request_timeout=REQUEST_TIMEOUT))

    async def create(self, ref: Ref, body: Body) -> Body:
        """See `Server.create`."""
        call = self._method("create", ref.endpoint, "")
        return await _answer("create", ref, call(**_place(ref.endpoint, ref.namespace), body=body, _request_timeout=REQUEST_TIMEOUT))

    async def replace(self, ref: Ref, body: Body) -> Body:
        """See `Server.replace`."""
        call = self._method("replace", ref.endpoint, "")
        place = _place(ref.endpoint, ref.namespace)
        return await _answer("replace", ref, call(**place, name=ref.name, body=body, _request_timeout=REQUEST_TIMEOUT))

    async def patch(self, ref: Ref, body: Body, kind: PatchType, *, status: bool, manager: str) -> Body:
        """See `Server.patch`."""
        call = self._method("patch", ref.endpoint, "_status" if status else "")
        how: dict[str, object] = {"field_manager": manager, "_content_type": kind.value, "_request_timeout": REQUEST_TIMEOUT}
        if kind == PatchType.APPLY:
            how["force"] = True  # what a field manager tells is its own to tell
        return await _answer("patch", ref, call(**_place(ref.endpoint, ref.namespace), name=ref.name, body=body, **how))

    async def delete(self, ref: Ref, uid: str) -> None:
        """See `Server.delete`."""
        call = self._method("delete", ref.endpoint, "")
        place = _place(ref.endpoint, ref.namespace)
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        await _answer("delete", ref, call(**place, name=ref.name, body=body, _request_timeout=REQUEST_TIMEOUT))

    def _method(self, verb: str, endpoint: Endpoint, suffix: str) -> Any:
        scope = "namespaced" if endpoint.namespaced else "cluster"
        return getattr(self._api, f"{verb}_{scope}_custom_object{suffix}")


def _place(endpoint: Endpoint, namespace: str = "") -> dict[str, str]:
    place = {"group": endpoint.group, "version": endpoint.version, "plural": endpoint.plural}
    return place | {"namespace": namespace} if namespace else place


async def _answer(verb: str, ref: Ref, request: Awaitable[object]) -> Body:
    """The decoded answer, or the error that says what was asked and what came back.

    The time limit covers what the client does before it sends, too: it may run a credential plugin.
    """
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            return cast(Body, await request)
    except ApiException as error:
        raise _error(error)(f"{verb} {ref}: {_told(error)}") from error
    except TimeoutError as error:
        raise errors.Unavailable(f"{verb} {ref}: no answer within {REQUEST_TIMEOUT:.0f} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise errors.Unavailable(f"{verb} {ref}: {error!r}") from error


def _error(error: ApiException) -> type[errors.KubeError]:
    status = error.status or 0
    if status >= 500:
        return errors.Unavailable
    if status == 409 and _status(error).get("reason") == "AlreadyExists":
        return errors.AlreadyExists
    return _BY_STATUS.get(status, errors.KubeError)


def _told(error: ApiException) -> str:
    message = _status(error).get("message") or error.body or error.reason
    return f"HTTP {error.status}: {message}"


def _status(error: ApiException) -> Body:
    """The server's `metav1.Status`, if it sent one: proxies in between answer with what they like."""
    try:
        body = json.loads(error.body or "")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
