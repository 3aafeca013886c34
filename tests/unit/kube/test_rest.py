"""What answers of the API server become."""

import asyncio
import json
from collections.abc import Awaitable

import aiohttp
import pytest
from kubernetes.aio.client import ApiException

from kubeferry.kube import errors, rest
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
