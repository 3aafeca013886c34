"""What is asked of an API server, and what its answers become."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from kubernetes.aio.client import ApiException

from kubeferry.api.computenode import ComputeNode
from kubeferry.api.node import Node
from kubeferry.kube import errors, rest
from kubeferry.kube.client import endpoint
from kubeferry.kube.leases import LEASES
from kubeferry.kube.server import Endpoint, Ref

REF = Ref(Endpoint(group="g", version="v1", plural="things", kind="Thing", namespaced=True), "a", "ns")


async def raising(error: BaseException) -> object:
    raise error


def status(code: int, reason: str, message: str) -> ApiException:
    return ApiException(status=code, reason="HTTP reason", body=json.dumps({"kind": "Status", "reason": reason, "message": message}))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (status(404, "NotFound", "m"), errors.NotFound),
        (status(409, "Conflict", "m"), errors.Conflict),
        (status(409, "AlreadyExists", "m"), errors.AlreadyExists),
        (status(401, "Unauthorized", "m"), errors.Forbidden),
        (status(403, "Forbidden", "m"), errors.Forbidden),
        (status(400, "BadRequest", "m"), errors.Invalid),
        (status(422, "Invalid", "m"), errors.Invalid),
        (status(410, "Expired", "m"), errors.Unavailable),
        (status(429, "TooManyRequests", "m"), errors.Unavailable),
        (status(500, "InternalError", "m"), errors.Unavailable),
        (status(503, "ServiceUnavailable", "m"), errors.Unavailable),
        (status(418, "Teapot", "m"), errors.KubeError),
    ],
    ids=lambda value: f"{value.status} {json.loads(value.body or '')['reason']}" if isinstance(value, ApiException) else None,
)
async def test_an_answer_becomes_the_error_of_its_kind(answer: ApiException, expected: type[errors.KubeError]) -> None:
    with pytest.raises(errors.KubeError) as caught:
        await rest._answer("replace", REF, raising(answer))
    assert type(caught.value) is expected
    assert str(caught.value) == f"replace Thing ns/a: HTTP {answer.status}: m"


async def test_a_proxys_answer_that_is_no_status_is_told_as_it_is() -> None:
    with pytest.raises(errors.Unavailable, match=r"get Thing ns/a: HTTP 502: <html>bad gateway</html>"):
        await rest._answer("get", REF, raising(ApiException(status=502, reason="Bad Gateway", body="<html>bad gateway</html>")))


@pytest.mark.parametrize("error", [aiohttp.ServerDisconnectedError(), ConnectionResetError(), TimeoutError()])
async def test_a_broken_connection_is_unavailable(error: Exception) -> None:
    with pytest.raises(errors.Unavailable, match="get Thing ns/a"):
        await rest._answer("get", REF, raising(error))


async def test_a_request_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "REQUEST_TIMEOUT", 0)
    never: Awaitable[object] = asyncio.get_running_loop().create_future()
    with pytest.raises(errors.Unavailable, match="no answer within 0 s"):
        async with asyncio.timeout(0.2):
            await rest._answer("get", REF, never)


async def test_without_kubeconfig_and_pod_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(errors.NotConfigured, match="KUBECONFIG is not set"):
        await rest.RestServer.connect()


class Asked:
    """An HTTP server that notes what it is asked, and answers every path but those in `refused` with an object of that path."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.credentials: set[str | None] = set()
        self.refused: dict[str, int] = {}

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append((request.method, request.path_qs))
        self.credentials.add(request.headers.get("Authorization"))
        if code := self.refused.get(request.path):
            told = {"kind": "Status", "code": code, "reason": "Refused", "message": f"{request.path} is refused"}
            return web.json_response(told, status=code)
        return web.json_response({"kind": "Any", "asked": request.path})


@pytest.fixture
async def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asked]:
    asked = Asked()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", asked.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield asked
    await runner.cleanup()


@pytest.fixture
async def server(asked: Asked) -> AsyncIterator[rest.RestServer]:
    server = await rest.RestServer.connect()
    yield server
    await server.close()


async def test_a_node_is_read_by_the_path_of_the_core_group_with_credentials(asked: Asked, server: rest.RestServer) -> None:
    assert await server.get(Ref(endpoint(Node), "n1")) == {"kind": "Any", "asked": "/api/v1/nodes/n1"}
    assert asked.credentials == {"Bearer secret"}


async def test_nodes_are_listed_by_the_path_of_the_core_group_page_by_page(asked: Asked, server: rest.RestServer) -> None:
    await server.page(endpoint(Node), "", "", 250)
    await server.page(endpoint(Node), "", "more", 250)
    assert asked.requests == [("GET", "/api/v1/nodes?limit=250"), ("GET", "/api/v1/nodes?continue=more&limit=250")]


async def test_kinds_of_named_groups_are_asked_for_by_the_path_of_their_group(asked: Asked, server: rest.RestServer) -> None:
    await server.get(Ref(endpoint(ComputeNode), "n1"))
    await server.page(endpoint(ComputeNode), "", "", 1)
    await server.get(Ref(LEASES, "n1", "kubeferry-system"))
    assert [path for _, path in asked.requests] == [
        "/apis/kubeferry.io/v1alpha1/computenodes/n1",
        "/apis/kubeferry.io/v1alpha1/computenodes?limit=1",
        "/apis/coordination.k8s.io/v1/namespaces/kubeferry-system/leases/n1",
    ]


@pytest.mark.parametrize(("code", "expected"), [(403, errors.Forbidden), (404, errors.NotFound), (503, errors.Unavailable)])
async def test_a_refused_list_of_nodes_says_what_was_asked_and_what_came_back(
    asked: Asked, server: rest.RestServer, code: int, expected: type[errors.KubeError]
) -> None:
    asked.refused["/api/v1/nodes"] = code
    with pytest.raises(expected, match=rf"list Node \*: HTTP {code}: /api/v1/nodes is refused"):
        await server.page(endpoint(Node), "", "", 1)
