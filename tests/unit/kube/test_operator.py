"""kopf's setting, and what ends or postpones a start."""

import itertools

import kopf
import pytest
from fake_cluster import FakeServer

from kubeferry.api.node import Node
from kubeferry.api.placement import Placement
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.kube import errors
from kubeferry.kube.client import Cluster
from kubeferry.kube.operator import configure, require_kinds, told_to_kopf, watch_tasks_of

KINDS = (VirtualMachine, Placement)


async def test_a_start_goes_on_when_every_kind_can_be_listed() -> None:
    server = FakeServer()
    await require_kinds(Cluster(server, "tester"), KINDS)
    assert server.requests == ["list VirtualMachine *", "list Placement *"]


@pytest.mark.parametrize(
    ("error", "expected", "says"),
    [
        (
            errors.NotFound("404"),
            kopf.PermanentError,
            "no placements.kubeferry.io: install them with `kubectl apply -f manifests/crds.yaml`",
        ),
        (errors.Forbidden("no rights"), kopf.PermanentError, "no rights .reason Forbidden; rights are in manifests/kubeferry.yaml"),
        (errors.Unavailable("refused"), kopf.TemporaryError, "refused"),
    ],
)
async def test_a_kind_that_can_not_be_listed_ends_or_postpones_the_start(
    error: errors.KubeError, expected: type[Exception], says: str
) -> None:
    server = FakeServer()
    server.before["list Placement *"] = [error]
    with pytest.raises(expected, match=says):
        await require_kinds(Cluster(server, "tester"), KINDS)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.Forbidden("list Node *: HTTP 403: no"), r"list Node \*: HTTP 403: no .reason Forbidden; rights are in manifests/kubeferry"),
        (errors.NotFound("list Node *: HTTP 404: no"), r"list Node \*: HTTP 404: no .reason NotFound"),
    ],
)
async def test_nodes_that_can_not_be_listed_end_the_start_and_our_manifests_are_not_said_to_bring_them(
    error: errors.KubeError, says: str
) -> None:
    server = FakeServer()
    server.before["list Node *"] = [error]
    with pytest.raises(kopf.PermanentError, match=says) as caught:
        await require_kinds(Cluster(server, "tester"), (Node,))
    assert "crds.yaml" not in str(caught.value)


def test_an_error_that_is_no_answer_of_the_api_server_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), told_to_kopf():
        _ = 1 / 0


def test_backoffs_are_the_same_at_every_request_and_never_longer_than_two_seconds() -> None:
    settings = kopf.OperatorSettings()
    configure(settings)
    backoffs = settings.networking.error_backoffs
    assert not isinstance(backoffs, float)
    for _ in range(2):
        assert list(itertools.islice(backoffs, 5)) == [0.5, 1.0, 2.0, 2.0, 2.0]


def test_an_agent_is_sent_only_its_own_tasks() -> None:
    settings = kopf.OperatorSettings()
    watch_tasks_of(settings, "worker-1")
    assert settings.watching.field_selectors["kubeferry.io", "hosttasks"] == "spec.node=worker-1"
