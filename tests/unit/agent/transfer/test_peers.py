import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import UID
from fake_cluster import FakeServer
from manual_clock import ManualClock
from samples import node_status
from sshd import EPOCH, EPOCH_ID, NAMES, Sshd, Target, vm_domain, write_files
from structlog.testing import capture_logs

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.machine import Machine
from kubeferry.agent.settings import AgentSettings
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer import peers as peers_module
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.keys import Keys, ensure_keys
from kubeferry.agent.transfer.peers import Outbound, Peers
from kubeferry.agent.transfer.sender import Sent
from kubeferry.agent.transfer.sshd import authorized_keys
from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode, SshEndpoint
from kubeferry.api.model import dump
from kubeferry.api.role import Role
from kubeferry.api.task import CopyParameters, HostTaskSpec, PlacementReference, PreflightParameters, TaskProgress, Verb
from kubeferry.core.journal import Journal, JournalStep
from kubeferry.kube.client import Cluster, endpoint
from kubeferry.kube.errors import Forbidden, KubeError, Unavailable
from kubeferry.kube.server import Ref

Reached = tuple[Target, Sshd, SshEndpoint, Keys]


def task(verb: Verb, **parameters: Any) -> HostTaskSpec:
    return HostTaskSpec(
        node="a",
        host_id="host-a",
        verb=verb,
        epoch=EPOCH,
        epoch_id=EPOCH_ID,
        seq=5,
        placement=PlacementReference(name=UID, uid="placement-1"),
        **parameters,
    )


PREFLIGHT = task(Verb.PREFLIGHT, preflight=PreflightParameters(target="b", target_host_id="host-b"))
COPY = task(Verb.COPY, copy=CopyParameters(target="b", target_host_id="host-b"))
SEALED = Journal(
    uid=UID,
    epoch=EPOCH,
    epoch_id=EPOCH_ID,
    role=Role.SEALED,
    step=JournalStep(seq=4, verb=Verb.SEAL),
    domain=vm_domain(),
    created=NAMES,
)


class SourceHost:
    """Host `a`, and the ComputeNodes that it reads."""

    def __init__(self, path: Path) -> None:
        (path / "state").mkdir(parents=True)
        settings = AgentSettings.model_validate(
            {
                "nodeName": "a",
                "instancesPath": path / "instances",
                "statePath": path / "state",
                "runPath": path / "run",
                "migrationAddress": "127.0.0.1",
            }
        )
        self.machine = Machine(settings=settings, host_id="host-a", boot_id="boot-1")
        self.keys = ensure_keys(settings.state_path)
        self.server = FakeServer()
        self.peers = Peers(self.machine, Cluster(self.server, "test"), self.keys)
        self.allowed = authorized_keys(self.keys)

    def node(self, name: str, ssh: SshEndpoint | None = None, host: str = "") -> None:
        """A ComputeNode as stored."""
        status = node_status(host or f"host-{name}") | ({} if ssh is None else {"ssh": dump(ssh)})
        ref = Ref(endpoint(ComputeNode), name)
        self.server.objects[ref] = {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1"}, "status": status}

    def who(self) -> list[str]:
        """The nodes that are let in."""
        return [line.partition("--peer ")[2].partition('"')[0] for line in self.allowed.read_text().splitlines()]


@pytest.fixture
def source_host(tmp_path: Path) -> SourceHost:
    return SourceHost(tmp_path / "host-a")


@pytest.fixture
def ssh_of(tmp_path: Path) -> Iterator[Any]:
    """The endpoint of a node with keys of its own."""

    def made(name: str) -> SshEndpoint:
        (tmp_path / f"keys-{name}").mkdir(exist_ok=True)
        keys = ensure_keys(tmp_path / f"keys-{name}")
        return SshEndpoint(address="192.0.2.1", port=8022, host_key=keys.host_public, identity_key=keys.identity_public)

    return made


async def test_every_other_node_that_tells_of_a_key_is_let_in(source_host: SourceHost, ssh_of: Any) -> None:
    for name in ("a", "b", "c"):
        source_host.node(name, ssh_of(name))
    source_host.node("old")
    await source_host.peers.authorize()
    assert source_host.who() == ["b", "c"]
    assert f" --socket {source_host.machine.settings.run_path}/agent.sock " in source_host.allowed.read_text()
    assert ssh_of("b").identity_key in source_host.allowed.read_text()
    assert ssh_of("b").host_key not in source_host.allowed.read_text()


async def test_a_node_that_is_gone_is_let_in_no_more(source_host: SourceHost, ssh_of: Any) -> None:
    source_host.node("b", ssh_of("b"))
    await source_host.peers.authorize()
    del source_host.server.objects[Ref(endpoint(ComputeNode), "b")]
    await source_host.peers.authorize()
    assert source_host.who() == []


async def test_a_node_that_can_not_be_read_hides_no_other(source_host: SourceHost, ssh_of: Any) -> None:
    source_host.node("b", ssh_of("b"))
    source_host.node("c", ssh_of("c"))
    source_host.server.objects[Ref(endpoint(ComputeNode), "b")]["status"]["ssh"]["identityKey"] = "ssh-rsa AAAA"
    with capture_logs() as logs:
        await source_host.peers.authorize()
    assert source_host.who() == ["c"]
    assert [entry["peer"] for entry in logs if entry["log_level"] == "error"] == ["b"]


async def test_who_was_let_in_still_is_when_the_api_server_does_not_answer(source_host: SourceHost, ssh_of: Any) -> None:
    source_host.node("b", ssh_of("b"))
    await source_host.peers.authorize()
    source_host.server.before[f"list {Ref(endpoint(ComputeNode), '*')}"] = [Unavailable("no answer")]
    with pytest.raises(Unavailable):
        await source_host.peers.authorize()
    assert source_host.who() == ["b"]


async def test_keys_that_can_not_be_written_are_told(source_host: SourceHost) -> None:
    source_host.allowed.mkdir()
    with pytest.raises(StorageError, match=r"could not write .*authorized_keys"):
        await source_host.peers.authorize()


async def test_a_later_list_is_never_written_over_by_an_earlier_one(
    source_host: SourceHost, ssh_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_host.node("b", ssh_of("b"))
    writing, go_on = threading.Event(), threading.Event()
    write = peers_module.write_authorized_keys

    def held(*args: Any) -> None:
        writing.set()
        go_on.wait(30)
        write(*args)

    monkeypatch.setattr(peers_module, "write_authorized_keys", held)
    first = asyncio.create_task(source_host.peers.authorize())
    await asyncio.to_thread(writing.wait, 30)
    monkeypatch.setattr(peers_module, "write_authorized_keys", write)
    source_host.node("c", ssh_of("c"))
    second = asyncio.create_task(source_host.peers.authorize())
    await asyncio.sleep(0)  # by now, it would have listed
    assert [request.partition(" ")[0] for request in source_host.server.requests] == ["list"]
    go_on.set()
    await asyncio.gather(first, second)
    assert source_host.who() == ["b", "c"]


async def test_a_host_is_reached_as_its_compute_node_tells(source_host: SourceHost, ssh_of: Any) -> None:
    source_host.node("b", ssh_of("b"))
    assert await source_host.peers.endpoint("b", "host-b") == ssh_of("b")


@pytest.mark.parametrize(
    ("host", "has_ssh", "says", "retryable"),
    [
        ("host-b", False, "does not tell how its agent is reached", True),
        ("another", True, "is host another by now, host-b was expected", False),
        ("another", False, "is host another by now", False),
    ],
)
async def test_a_node_that_does_not_tell_or_is_another_host_is_not_called(
    host: str, has_ssh: bool, says: str, retryable: bool, source_host: SourceHost, ssh_of: Any
) -> None:
    source_host.node("b", ssh_of("b") if has_ssh else None, host)
    with pytest.raises(TransferError, match=says) as refused:
        await source_host.peers.endpoint("b", "host-b")
    assert (refused.value.reason, refused.value.retryable) == (reasons.PEER_UNKNOWN, retryable)


@pytest.mark.parametrize("error", [None, Forbidden("HTTP 403")])
async def test_a_node_that_can_not_be_asked_for_is_unknown(error: KubeError | None, source_host: SourceHost) -> None:
    if error is not None:
        source_host.server.before[f"get {Ref(endpoint(ComputeNode), 'b')}"] = [error]
    with pytest.raises(TransferError, match="the ComputeNode of b can't be read") as refused:
        await source_host.peers.endpoint("b", "host-b")
    assert refused.value.reason == reasons.PEER_UNKNOWN


async def test_an_api_server_that_does_not_answer_is_no_answer(source_host: SourceHost) -> None:
    source_host.server.before[f"get {Ref(endpoint(ComputeNode), 'b')}"] = [Unavailable("no answer")]
    with pytest.raises(Unavailable):
        await source_host.peers.endpoint("b", "host-b")


async def test_tasks_without_parameters_are_refused(source_host: SourceHost) -> None:
    outbound = Outbound(source_host.machine, source_host.peers, source_host.keys)
    with pytest.raises(RefusedError, match="lacks the parameters of Preflight"):
        await outbound.preflight(dataclasses.replace(PREFLIGHT, preflight=None))
    with pytest.raises(RefusedError, match="lacks the parameters of Copy") as refused:
        await outbound.copy(dataclasses.replace(COPY, copy=None), SEALED, lambda _: None)
    assert refused.value.reason == reasons.INVALID_TASK


@pytest.fixture
def outbound(reached: Reached, source_host: SourceHost) -> Outbound:
    """Host `a`, whose files lie ready, and which host `b` knows."""
    _, _, ssh, keys = reached
    source_host.node("b", ssh)
    write_files(source_host.machine.instance(UID))
    return Outbound(source_host.machine, source_host.peers, keys, ManualClock().time)


async def test_a_preflight_makes_the_directory_and_nothing_else(reached: Reached, outbound: Outbound) -> None:
    target = reached[0]
    before = target.expect()
    async with target.serving():
        await outbound.preflight(PREFLIGHT)
    assert (target.directory.is_dir(), target.files(), target.journal()) == (True, [], before)


async def test_a_preflight_to_a_host_without_an_agent_fails(outbound: Outbound) -> None:
    with pytest.raises(TransferError, match="does not listen") as refused:
        await outbound.preflight(PREFLIGHT)
    assert refused.value.reason == reasons.TRANSFER_BROKEN


async def test_a_copy_sends_what_the_journal_created_and_tells_its_progress_in_the_loop(reached: Reached, outbound: Outbound) -> None:
    target = reached[0]
    target.expect()
    told: list[tuple[TaskProgress, bool]] = []
    async with target.serving():
        sent = await outbound.copy(
            COPY, SEALED, lambda progress: told.append((progress, threading.current_thread() is threading.main_thread()))
        )
    assert (target.journal().role, target.files()) == (Role.VERIFIED, list(NAMES))
    total = sent.bytes_copied
    # The clock stands still: between the first and the last, nothing is due.
    assert told == [(TaskProgress(bytes_total=total, bytes_done=done), True) for done in (0, total)]


async def test_a_copy_that_is_cancelled_is_stopped_and_waited_for(
    source_host: SourceHost, ssh_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_host.node("b", ssh_of("b"))
    loop = asyncio.get_running_loop()
    begun, go_on, events = asyncio.Event(), threading.Event(), list[str]()

    def sending(*args: Any) -> Sent:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(30)
        events.append(f"stopped: {args[6]()}")
        return Sent(0, None)

    monkeypatch.setattr(peers_module, "send", sending)
    outbound = Outbound(source_host.machine, source_host.peers, source_host.keys)
    copying = asyncio.create_task(outbound.copy(COPY, SEALED, lambda _: None))
    await begun.wait()
    copying.cancel()
    await asyncio.sleep(0)  # by now, it would have ended
    await asyncio.sleep(0)
    assert not copying.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert events == ["stopped: True"]


async def test_a_preflight_does_not_wait_for_copies(source_host: SourceHost, ssh_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source_host.node("b", ssh_of("b"))
    go_on = threading.Event()
    both_begun = threading.Barrier(3)

    def sending(*_: Any) -> Sent:
        if not go_on.is_set():
            both_begun.wait(30)
        go_on.wait(30)
        return Sent(0, None)

    monkeypatch.setattr(peers_module, "send", sending)
    monkeypatch.setattr(peers_module, "make_directory", lambda *_: None)
    monkeypatch.setattr(peers_module, "THREADS", 2)
    outbound = Outbound(source_host.machine, source_host.peers, source_host.keys)
    copies = [asyncio.create_task(outbound.copy(COPY, SEALED, lambda _: None)) for _ in range(3)]
    await asyncio.to_thread(both_begun.wait, 30)
    await outbound.preflight(PREFLIGHT)
    assert not any(copying.done() for copying in copies)
    go_on.set()
    await asyncio.gather(*copies)
