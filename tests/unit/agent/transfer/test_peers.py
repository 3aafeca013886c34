import asyncio
import dataclasses
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_rig import CHILDREN
from builders import UID
from fake_cluster import FakeServer
from samples import node_status
from sshd import EPOCH, EPOCH_ID, NAMES, Sshd, Target, vm_domain, write_files
from structlog.testing import capture_logs

from kubeferry.agent.errors import RefusedError
from kubeferry.agent.machine import Machine
from kubeferry.agent.settings import AgentSettings
from kubeferry.agent.storage import probe
from kubeferry.agent.storage.errors import StorageError
from kubeferry.agent.transfer import peers as peers_module
from kubeferry.agent.transfer import prober, tls
from kubeferry.agent.transfer.errors import TransferError
from kubeferry.agent.transfer.keys import Keys, ensure_keys
from kubeferry.agent.transfer.peers import Outbound, Peers
from kubeferry.agent.transfer.sshd import authorized_keys
from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNode, SshEndpoint
from kubeferry.api.model import dump
from kubeferry.api.role import Role
from kubeferry.api.task import CopyParameters, HostTaskSpec, PlacementReference, PreflightParameters, TaskProgress, Verb
from kubeferry.core.journal import Journal, JournalDisk, JournalStep
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
    outbound = Outbound(source_host.machine, source_host.peers, source_host.keys, CHILDREN)
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
    write_files(source_host.machine.instance(UID))  # and its instances path with it
    return Outbound(source_host.machine, source_host.peers, keys, CHILDREN)


async def test_a_preflight_makes_the_directory_and_nothing_else(reached: Reached, outbound: Outbound, source_host: SourceHost) -> None:
    target = reached[0]
    before = target.expect()
    async with target.serving():
        await outbound.preflight(PREFLIGHT)
    assert (target.directory.is_dir(), target.files(), target.journal()) == (True, [], before)
    assert os.listdir(target.machine.settings.instances_path) == [UID]
    assert os.listdir(source_host.machine.settings.instances_path) == [UID]


async def test_a_preflight_to_a_host_without_an_agent_fails(outbound: Outbound) -> None:
    with pytest.raises(TransferError, match="does not listen") as refused:
        await outbound.preflight(PREFLIGHT)
    assert refused.value.reason == reasons.TRANSFER_BROKEN


async def test_hosts_that_see_the_same_storage_are_told_apart(reached: Reached, source_host: SourceHost, outbound: Outbound) -> None:
    target = reached[0]
    target.expect()
    ours, theirs = source_host.machine.settings.instances_path, target.machine.settings.instances_path
    (ours / UID).rename(ours.with_name("elsewhere"))
    ours.rmdir()
    ours.symlink_to(theirs)
    async with target.serving():
        with pytest.raises(TransferError, match="see the same instances' file system") as refused:
            await outbound.preflight(PREFLIGHT)
    assert (refused.value.reason, refused.value.retryable) == (reasons.STORAGE_SHARED, False)
    assert os.listdir(theirs) == []


@pytest.mark.parametrize(
    ("which", "says"), [("target", "the target sees, the source does not"), ("source", "the source sees what the target has left")]
)
async def test_storage_that_only_one_host_sees_is_unknown(
    which: str, says: str, reached: Reached, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = reached[0]
    target.expect()
    monkeypatch.setattr(prober if which == "target" else probe, "is_seen", lambda *_: True)
    async with target.serving():
        with pytest.raises(TransferError, match=says) as refused:
            await outbound.preflight(PREFLIGHT)
    assert (refused.value.reason, target.directory.exists()) == (reasons.STORAGE_UNKNOWN, False)


@pytest.mark.parametrize("where", ["source", "target"])
async def test_storage_that_can_not_be_looked_at_is_unknown_and_never_local(
    where: str, reached: Reached, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> bool:
        raise StorageError(reasons.STORAGE_ERROR, "stale file handle")

    target = reached[0]
    target.expect()
    monkeypatch.setattr(prober if where == "target" else probe, "is_seen", refuses)
    async with target.serving():
        with pytest.raises(TransferError, match=r"stale file handle\. Nothing was touched") as refused:
            await outbound.preflight(PREFLIGHT)
    assert (refused.value.reason, target.directory.exists()) == (reasons.STORAGE_UNKNOWN, False)


async def test_a_data_port_that_can_not_be_reached_is_found_before_anything_is_made(
    reached: Reached, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = reached[0]
    target.expect()
    listen = tls.listen

    def behind_a_wall(address: str, ports: range) -> socket.socket:
        listener = listen(address, ports)
        listener.shutdown(socket.SHUT_RDWR)
        return listener

    monkeypatch.setattr(tls, "listen", behind_a_wall)
    async with target.serving():
        with pytest.raises(TransferError, match=r"data can't be sent to 127\.0\.0\.1 port") as refused:
            await outbound.preflight(PREFLIGHT)
    assert (refused.value.reason, refused.value.retryable) == (reasons.DATA_PORT_UNREACHABLE, True)
    assert not target.directory.exists()


async def test_a_copy_sends_what_the_journal_created_and_tells_its_progress(reached: Reached, outbound: Outbound) -> None:
    target = reached[0]
    target.expect()
    told: list[TaskProgress] = []
    async with target.serving():
        sent = await outbound.copy(COPY, SEALED, told.append)
    assert (target.journal().role, target.files()) == (Role.VERIFIED, list(NAMES))
    total = sent.bytes_sent
    assert (told[0].bytes_done, told[0].bytes_sent, told[0].bytes_total) == (0, 0, total)
    assert (told[-1].bytes_done, told[-1].bytes_sent, told[-1].bytes_total) == (total, total, total)


async def test_another_disk_than_the_journal_tells_of_is_not_sent(reached: Reached, outbound: Outbound) -> None:
    reached[0].expect()
    another = dataclasses.replace(SEALED, disks={"root": JournalDisk(inode=1)})
    async with reached[0].serving():
        with pytest.raises(TransferError, match="the journal tells of 1") as refused:
            await outbound.copy(COPY, another, lambda _: None)
    assert (refused.value.reason, reached[0].files()) == (reasons.FOREIGN_FILES, [])


async def test_a_copy_that_is_cancelled_is_gone_when_that_is_done(reached: Reached, outbound: Outbound) -> None:
    target = reached[0]
    target.expect()
    begun = asyncio.Event()
    slow = dataclasses.replace(COPY, copy=CopyParameters(target="b", target_host_id="host-b", bandwidth_limit=64 << 10))
    async with target.serving():
        copying = asyncio.create_task(outbound.copy(slow, SEALED, lambda _: begun.set()))
        await begun.wait()
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
        await target.idle()
    assert target.still_incoming()


async def test_the_limit_of_a_copy_changes_while_it_runs(reached: Reached, outbound: Outbound) -> None:
    """At the first limit it would take minutes."""
    target = reached[0]
    target.expect()
    slow = dataclasses.replace(COPY, copy=CopyParameters(target="b", target_host_id="host-b", bandwidth_limit=1 << 10))
    begun = asyncio.Event()
    async with target.serving(), asyncio.timeout(60):
        copying = asyncio.create_task(outbound.copy(slow, SEALED, lambda _: begun.set()))
        await begun.wait()
        outbound.saw(COPY, ended=False)
        assert (await copying).bytes_sent > 1 << 20


async def test_a_limit_that_was_told_before_a_copy_began_counts(reached: Reached, outbound: Outbound) -> None:
    target = reached[0]
    target.expect()
    slow = dataclasses.replace(COPY, copy=CopyParameters(target="b", target_host_id="host-b", bandwidth_limit=1 << 10))
    outbound.saw(slow, ended=False)
    outbound.saw(COPY, ended=False)
    outbound.saw(PREFLIGHT, ended=False)  # has none
    async with target.serving(), asyncio.timeout(60):
        await outbound.copy(slow, SEALED, lambda _: None)
    assert target.journal().role == Role.VERIFIED


async def test_of_a_copy_that_has_ended_nothing_is_kept(outbound: Outbound) -> None:
    outbound.saw(COPY, ended=False)
    outbound.saw(COPY, ended=True)
    assert outbound._limits == {}
