"""The controller as a whole, on an API server in memory: from an applied VM to a running one."""

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf
import pytest
from fake_cluster import FakeServer
from manual_clock import ManualClock
from samples import migration_body, node_body, node_status, vm_body
from scraper import get
from structlog.typing import EventDict

from kubeferry import __version__
from kubeferry.api.computenode import ComputeNode, ComputeNodeStatus
from kubeferry.api.meta import Meta
from kubeferry.api.migration import Migration
from kubeferry.api.model import load
from kubeferry.api.names import FINALIZER, SYSTEM_NAMESPACE
from kubeferry.api.node import Node
from kubeferry.api.placement import Placement
from kubeferry.api.task import HostTask, HostTaskStatus, TaskPhase, TaskResult, TaskState, Verb
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.controller import controller as module
from kubeferry.controller.controller import Controller
from kubeferry.controller.handlers import register
from kubeferry.controller.settings import ControllerSettings
from kubeferry.controller.store import KINDS
from kubeferry.kube.client import Cluster, Stored, endpoint
from kubeferry.kube.errors import Forbidden, NotFound, Unavailable
from kubeferry.kube.events import EVENTS
from kubeferry.kube.leases import renew_lease
from kubeferry.kube.server import Ref

VM = Ref(endpoint(VirtualMachine), "web-0", "shop")
LEASE_LIST = f"list Lease {SYSTEM_NAMESPACE}/*"
MOVE = Ref(endpoint(Migration), "move", "shop")
NODE = Ref(endpoint(ComputeNode), "n1")


async def settle() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


class Agent:
    """The agent of n1, by hand."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.cluster = Cluster(server, "kubeferry-agent")
        self.beats = 0

    async def beat(self) -> None:
        self.beats += 1
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.beats)
        await renew_lease(self.server, SYSTEM_NAMESPACE, "n1", "h1", now)

    async def tell(self, **status: Any) -> dict[str, Any]:
        await self.cluster.apply_status(ComputeNode, "n1", load(ComputeNodeStatus, node_status(**status)))
        return self.server.objects[NODE]

    def tasks(self) -> dict[Verb, HostTask]:
        bodies = [body for ref, body in self.server.objects.items() if ref.endpoint.kind == "HostTask"]
        return {task.spec.verb: task for task in (load(HostTask, body) for body in bodies)}

    async def answer(self, verb: Verb, state: TaskState) -> dict[str, Any]:
        task = self.tasks()[verb]
        await self.cluster.patch_status(HostTask, task.metadata, HostTaskStatus(phase=TaskPhase.SUCCEEDED, result=TaskResult(state=state)))
        return self.server.objects[Ref(endpoint(HostTask), task.metadata.name)]


NEARBY = {"address": "127.0.0.1", "port": 0}
SETTINGS = ControllerSettings.model_validate({"metrics": NEARBY})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def agent(server: FakeServer) -> Agent:
    agent = Agent(server)
    await server.create(Ref(endpoint(Node), "n1"), node_body("n1"))
    await agent.cluster.create(ComputeNode, Meta(name="n1"))
    await agent.tell()
    await agent.beat()
    return agent


@pytest.fixture
async def controller(server: FakeServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Controller]:
    monkeypatch.setattr(module, "boottime", clock.time)
    controller = Controller(server, SETTINGS, clock)
    yield controller
    await controller.stop()


def event(kind: str | None, body: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": body}


def vm_status(server: FakeServer) -> Any:
    return server.objects[VM]["status"]["printableStatus"]


async def test_an_applied_vm_is_protected_placed_created_started_and_told_of(
    controller: Controller, server: FakeServer, clock: ManualClock, agent: Agent, logs: list[EventDict]
) -> None:
    await controller.start()
    await agent.beat()
    clock.advance(10)  # the Lease was seen to change: the node is alive
    await settle()

    applied = dict(await server.create(VM, vm_body()))
    uid = applied["metadata"]["uid"]
    controller.saw(VirtualMachine, event("ADDED", applied))
    await settle()
    assert server.objects[VM]["metadata"]["finalizers"] == [FINALIZER]
    assert load(Placement, server.objects[Ref(endpoint(Placement), uid)]).spec.node_name == "n1"
    assert list(agent.tasks()) == [Verb.CREATE]
    assert vm_status(server) == "Provisioning"

    controller.saw(HostTask, event("MODIFIED", await agent.answer(Verb.CREATE, TaskState.CREATED)))
    await settle()
    assert list(agent.tasks()) == [Verb.START], "the outcome of Create stands in the ledger, and its task is gone"
    assert vm_status(server) == "Starting"

    epoch_id = load(Placement, server.objects[Ref(endpoint(Placement), uid)]).spec.epoch_id
    copy = {"uid": uid, "state": "Running", "role": "ACTIVE", "epoch": 1, "epochId": epoch_id}
    controller.saw(ComputeNode, event("MODIFIED", await agent.tell(inventory=[copy])))
    controller.saw(HostTask, event("MODIFIED", await agent.answer(Verb.START, TaskState.RUNNING)))
    await settle()
    assert vm_status(server) == "Running"
    assert agent.tasks() == {}

    server.requests.clear()
    controller.saw(VirtualMachine, event("MODIFIED", server.objects[VM]))
    await settle()
    assert server.requests == [], "our own write is no news"


async def test_log_lines_of_a_pass_tell_vm_uid_node_epoch_and_the_last_verb(
    controller: Controller, server: FakeServer, clock: ManualClock, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    from structlog.contextvars import get_contextvars

    bound: list[dict[str, Any]] = []
    monkeypatch.setattr("kubeferry.controller.execute.log.info", lambda *_, **__: bound.append(dict(get_contextvars())), raising=False)
    await controller.start()
    await agent.beat()
    clock.advance(10)
    await settle()
    applied = dict(await server.create(VM, vm_body()))
    controller.saw(VirtualMachine, event("ADDED", applied))
    await settle()
    uid = applied["metadata"]["uid"]
    assert bound == [{"vm": "shop/web-0", "vm_uid": uid}, {"vm": "shop/web-0", "vm_uid": uid, "node": "n1", "epoch": 1, "verb": "Create"}]
    assert get_contextvars() == {}


async def test_what_was_done_is_told_by_events_and_metrics(
    controller: Controller, server: FakeServer, clock: ManualClock, agent: Agent
) -> None:
    await controller.start()
    await agent.beat()
    clock.advance(10)
    await settle()
    controller.saw(VirtualMachine, event("ADDED", dict(await server.create(VM, vm_body()))))
    controller.saw(Migration, event("ADDED", dict(await server.create(MOVE, migration_body("move")))))
    await settle()
    status, _, text = await get(controller._metrics.port)
    assert status == 200
    for sample in ('migrations{phase="Failed"} 1.0', f'build_info{{version="{__version__}"}} 1.0', "migration_downtime_seconds_count 0.0"):
        assert f"\nkubeferry_{sample}\n" in text
    await controller.stop()
    told = {(body["regarding"]["kind"], body["reason"]) for ref, body in server.objects.items() if ref.endpoint == EVENTS}
    assert told == {("VirtualMachine", "Scheduled"), ("Migration", "Failed")}  # it was created long ago, as an API server in memory has it


async def test_a_vm_waits_for_a_node_until_its_lease_is_seen_to_change(
    controller: Controller, server: FakeServer, clock: ManualClock, agent: Agent
) -> None:
    await server.create(VM, vm_body())
    await controller.start()
    await settle()
    assert vm_status(server) == "ErrorUnschedulable"
    assert agent.tasks() == {}
    await agent.beat()
    clock.advance(10)
    await settle()
    assert list(agent.tasks()) == [Verb.CREATE]


async def test_that_an_agent_falls_silent_and_that_it_is_back_is_told_once_each(
    controller: Controller, clock: ManualClock, agent: Agent, logs: list[EventDict]
) -> None:
    await controller.start()
    for beats in (True, True, False, False, False, False, False, True):
        if beats:
            await agent.beat()
        clock.advance(10)
        await settle()
    told = [(entry["node"], entry["alive"]) for entry in logs if entry["event"] == "agent looked at"]
    assert told == [("n1", None), ("n1", True), ("n1", False), ("n1", True)]


async def test_a_node_that_falls_silent_wakes_its_vms(controller: Controller, server: FakeServer, clock: ManualClock, agent: Agent) -> None:
    await server.create(VM, vm_body())
    await controller.start()
    await agent.beat()
    clock.advance(10)
    await settle()
    uid = server.objects[VM]["metadata"]["uid"]
    server.requests.clear()
    for _ in range(4):
        clock.advance(10)
        await settle()
    assert f"get Placement {uid}" not in server.requests
    clock.advance(10)
    await settle()
    assert f"get Placement {uid}" in server.requests


async def test_a_pass_is_run_as_it_is_configured(
    server: FakeServer, clock: ManualClock, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "boottime", clock.time)
    scheduler = {"filters": ["Memory"], "reserved": {"memory": "8Gi"}}
    controller = Controller(server, ControllerSettings.model_validate({"scheduler": scheduler, "metrics": NEARBY}), clock)
    await controller.start()
    await agent.beat()
    clock.advance(10)
    await settle()
    applied = dict(await server.create(VM, vm_body()))
    controller.saw(VirtualMachine, event("ADDED", applied))
    await settle()
    await controller.stop()
    told = {each["type"]: each["message"] for each in server.objects[VM]["status"]["conditions"]}
    assert "1 InsufficientMemory (n1: 0 of 0 memory free, 64Mi asked)" in told["Scheduled"]


async def test_a_vm_that_was_let_go_wakes_the_migrations_that_wait_for_it(controller: Controller, server: FakeServer) -> None:
    """The event that tells of the VM's end is no news by then: we have let it go ourselves."""
    await controller.start()
    controller.saw(VirtualMachine, event("ADDED", dict(await server.create(VM, vm_body()))))
    await server.create(MOVE, migration_body("move"))
    server.objects[MOVE]["metadata"]["creationTimestamp"] = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    controller.saw(Migration, event("ADDED", server.objects[MOVE]))
    await settle()
    assert server.objects[MOVE]["status"]["phase"] == "Pending"
    await controller._cluster.delete(VirtualMachine, load(VirtualMachine, server.objects[VM]).metadata)
    leaving = server.objects[VM]
    controller.saw(VirtualMachine, event("MODIFIED", leaving))
    await settle()
    assert VM not in server.objects
    controller.saw(VirtualMachine, event("DELETED", leaving))
    await settle()
    assert server.objects[MOVE]["status"]["phase"] == "Failed"
    told = {each["type"]: each["reason"] for each in server.objects[MOVE]["status"]["conditions"]}
    assert told["Finished"] == "VMMissing"


async def test_two_controllers_at_once_make_one_placement_and_one_task(
    controller: Controller, server: FakeServer, clock: ManualClock, agent: Agent
) -> None:
    other = Controller(server, SETTINGS, clock)
    for each in (controller, other):
        await each.start()
    await agent.beat()
    clock.advance(10)
    await settle()
    applied = dict(await server.create(VM, vm_body()))
    for each in (controller, other):
        each.saw(VirtualMachine, event("ADDED", applied))
    await settle()
    uid = applied["metadata"]["uid"]
    spec = load(Placement, server.objects[Ref(endpoint(Placement), uid)]).spec
    assert (spec.epoch, spec.seq, len(spec.steps)) == (1, 1, 1)
    assert list(agent.tasks()) == [Verb.CREATE]
    await other.stop()


@pytest.mark.parametrize("announced", [1, 300], ids=["one object", "every object one by one"])
async def test_one_list_follows_objects_that_are_announced_without_a_type(
    controller: Controller, server: FakeServer, clock: ManualClock, agent: Agent, announced: int
) -> None:
    await controller.start()
    await settle()
    server.requests.clear()
    for _ in range(announced):
        controller.saw(ComputeNode, event(None, server.objects[NODE]))
    clock.advance(5)
    await settle()
    assert server.requests.count("list ComputeNode *") == 1


async def test_everything_is_listed_every_ten_minutes(controller: Controller, server: FakeServer, clock: ManualClock, agent: Agent) -> None:
    await controller.start()
    server.requests.clear()
    for _ in range(2):
        clock.advance(600)
        await settle()
    assert server.requests.count("list VirtualMachine *") == 2


async def test_a_list_that_failed_is_tried_again_and_the_leases_are_looked_at_meanwhile(
    controller: Controller, server: FakeServer, clock: ManualClock, agent: Agent
) -> None:
    await controller.start()
    server.before["list VirtualMachine *"] = [Unavailable("away"), Unavailable("away")]
    server.requests.clear()
    clock.advance(600)
    await settle()
    clock.advance(1)
    await settle()
    clock.advance(2)
    await settle()
    assert server.requests.count("list VirtualMachine *") == 3
    assert server.requests.count("list ComputeNode *") == 1


async def test_a_deleted_object_is_seen(controller: Controller, server: FakeServer, agent: Agent) -> None:
    await server.create(VM, vm_body())
    await controller.start()
    await settle()
    body = server.objects.pop(VM)
    server.requests.clear()
    controller.saw(VirtualMachine, event("DELETED", body))
    await settle()
    assert server.requests == [f"get Placement {body['metadata']['uid']}"]


async def test_leases_are_looked_at_soon_after_a_long_outage(
    controller: Controller, server: FakeServer, clock: ManualClock, agent: Agent
) -> None:
    await controller.start()
    server.before[LEASE_LIST] = [Unavailable("away") for _ in range(8)]
    for _ in range(8):
        clock.advance(10)
        await settle()
    assert server.before[LEASE_LIST] == []


async def test_a_cluster_without_our_kinds_ends_the_start_with_what_to_do(controller: Controller, server: FakeServer) -> None:
    server.before["list HostTask *"] = [NotFound("404")]
    with pytest.raises(kopf.PermanentError, match=r"no hosttasks.*kubectl apply -f manifests/crds\.yaml"):
        await controller.start()


@pytest.mark.parametrize(
    ("error", "expected"), [(Unavailable("no answer"), kopf.TemporaryError), (Forbidden("no rights"), kopf.PermanentError)]
)
async def test_a_start_without_leases_is_postponed_or_ended(
    controller: Controller, server: FakeServer, error: Exception, expected: type[Exception]
) -> None:
    server.before[LEASE_LIST] = [error]  # type: ignore[list-item]
    with pytest.raises(expected, match=str(error)):
        await controller.start()


async def test_a_start_that_was_postponed_takes_its_own_port_for_nobody_elses(server: FakeServer, clock: ManualClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(server, ControllerSettings.model_validate({"metrics": {"address": "127.0.0.1", "port": port}}), clock)
    server.before[LEASE_LIST] = [Unavailable("no answer")]
    with pytest.raises(kopf.TemporaryError):
        await controller.start()
    await controller.start()
    await controller.stop()


async def test_kopf_is_given_nothing_but_startup_cleanup_login_and_events(controller: Controller) -> None:
    registry = kopf.OperatorRegistry()
    register(registry, controller)
    activities = sorted(handler.id for handler in registry._activities.get_all_handlers())
    assert activities == ["login", "start", "stop"]
    watched = sorted(str(handler.selector) for handler in registry._watching.get_all_handlers())
    assert len(watched) == len(KINDS)
    assert not [*registry._changing.get_all_handlers(), *registry._spawning.get_all_handlers(), *registry._indexing.get_all_handlers()]


async def test_each_kinds_events_reach_the_controller_as_that_kind(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[type[Stored], object]] = []
    monkeypatch.setattr(controller, "saw", lambda kind, event: seen.append((kind, event)))
    registry = kopf.OperatorRegistry()
    register(registry, controller)
    for handler in registry._watching.get_all_handlers():
        await handler.fn(event={"type": None})  # type: ignore[call-arg, misc, typeddict-item]
    assert [kind for kind, _ in seen] == list(KINDS)
    assert {kind.__name__ for kind in KINDS} == {"VirtualMachine", "Placement", "HostTask", "ComputeNode", "Migration", "Node"}


def test_settings_are_written_in_camel_case() -> None:
    settings = ControllerSettings.model_validate({"logFormat": "text"})
    assert (settings.log_format, settings.namespace, settings.workers) == ("text", "kubeferry-system", 4)
