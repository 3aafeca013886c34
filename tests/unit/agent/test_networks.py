"""What a VM may be plugged into here: asked before anything is made, before anything is reserved, and before every start."""

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from agent_rig import Rig, ended
from builders import UID

from kubeferry.agent import networks as networks_module
from kubeferry.agent.errors import RefusedError
from kubeferry.agent.preparer import Preparer
from kubeferry.agent.reserver import Reserver
from kubeferry.agent.settings import AllowList
from kubeferry.api import reasons
from kubeferry.api.domain import Domain, DomainInterface
from kubeferry.api.network import BridgeNetwork, LibvirtNetwork, NetworkSource, UserNetwork
from kubeferry.api.role import Role
from kubeferry.api.task import TaskState, Verb
from kubeferry.core.journal import Journal, JournalStep


@pytest.fixture(autouse=True)
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host has the bridges br0 and br1, and eth0, which is none."""
    links = tmp_path / "links"
    for name in ("br0/bridge", "br1/bridge", "eth0"):
        (links / name).mkdir(parents=True)
    monkeypatch.setattr(networks_module, "LINKS", links)
    return links


def plugged(rig: Rig, *bridges: str, libvirt: str | None = None) -> Domain:
    sources = [NetworkSource(bridge=BridgeNetwork(name=name)) for name in bridges]
    sources += [NetworkSource(user=UserNetwork())]
    sources += [NetworkSource(libvirt=LibvirtNetwork(name=libvirt))] if libvirt else []
    cards = (DomainInterface(name=f"n{i}", mac=f"02:00:00:00:00:0{i}", network=source) for i, source in enumerate(sources))
    return dataclasses.replace(rig.domain(), interfaces=tuple(cards))


def allow(rig: Rig, *bridges: str) -> None:
    """A new life of the agent, which allows these."""
    images = (str(rig.path / "images"),)
    allowed = AllowList(hostPaths=images, kernelPaths=images, bridges=bridges)
    rig.boot(rig.settings.model_copy(update={"allow": allowed}), "boot-1")


async def test_bridges_that_are_there_and_allowed_are_told_and_what_else_is_called_so_is_not(rig: Rig) -> None:
    assert (await rig.report.now()).bridges == ()
    allow(rig, "br1", "br9", "eth0", "br0")
    status = await rig.report.now()
    assert (status.bridges, status.networks) == (("br0", "br1"), ("default",))


async def test_without_libvirt_bridges_are_told_all_the_same(rig: Rig) -> None:
    allow(rig, "br0")
    rig.hypervisor.stop_service()
    status = await rig.report.now()
    assert (status.bridges, status.networks) == (("br0",), ())


async def prepare(rig: Rig, domain: Domain) -> None:
    step = JournalStep(seq=7, verb=Verb.PREPARE)
    journal = Journal(uid=UID, epoch=3, epoch_id="e3", role=Role.INCOMING, step=step, domain=domain, source="b")
    await Preparer(rig.machine, Reserver(rig.machine, rig.journals, rig.calls)).prepare(journal, 1)


REFUSED = [
    pytest.param(("br0",), None, (), reasons.BRIDGE_NOT_ALLOWED, "bridge br0 is not allowed: allow.bridges .* lists none", id="empty"),
    pytest.param(("br0", "br7"), None, ("br0",), reasons.BRIDGE_NOT_ALLOWED, "bridge br7 is not allowed: .* lists br0;", id="other"),
    pytest.param(("br9",), None, ("br9",), reasons.NETWORK_UNAVAILABLE, "this host has no bridge br9", id="missing"),
    pytest.param(("eth0",), None, ("eth0",), reasons.NETWORK_UNAVAILABLE, "this host has no bridge eth0", id="no-bridge"),
    pytest.param((), "lab", (), reasons.NETWORK_UNAVAILABLE, "no active network lab; it has default", id="libvirt"),
]


@pytest.mark.parametrize(("bridges", "libvirt", "allowed", "reason", "says"), REFUSED)
async def test_a_new_vm_that_can_not_be_plugged_in_is_refused_before_anything_is_made(
    rig: Rig, bridges: tuple[str, ...], libvirt: str | None, allowed: tuple[str, ...], reason: str, says: str
) -> None:
    allow(rig, *allowed)
    await rig.place()
    await rig.change(domain=plugged(rig, *bridges, libvirt=libvirt))
    task = await rig.ask(Verb.CREATE)
    assert ended(task) == reason
    assert task.status is not None
    assert task.status.error is not None
    assert re.search(says, task.status.error.message)
    assert rig.journals.read(UID) is None
    assert list((rig.path / "instances").iterdir()) == []


@pytest.mark.parametrize(("bridges", "libvirt", "allowed", "reason", "says"), REFUSED)
async def test_a_target_that_a_vm_can_not_be_plugged_into_refuses_it_before_anything_is_journaled(
    rig: Rig, bridges: tuple[str, ...], libvirt: str | None, allowed: tuple[str, ...], reason: str, says: str
) -> None:
    allow(rig, *allowed)
    with pytest.raises(RefusedError, match=says) as refused:
        await prepare(rig, plugged(rig, *bridges, libvirt=libvirt))
    assert refused.value.reason == reason
    assert rig.journals.read(UID) is None


async def test_a_target_that_has_the_networks_takes_the_vm(rig: Rig) -> None:
    allow(rig, "br0", "br1")
    await prepare(rig, plugged(rig, "br1", "br0", libvirt="default"))
    assert rig.journal().role == Role.INCOMING


async def test_a_vm_is_started_only_while_its_bridges_are_there_and_allowed(rig: Rig, links: Path) -> None:
    allow(rig, "br0")
    await rig.place()
    await rig.change(domain=plugged(rig, "br0", libvirt="default"))
    (links / "br0" / "bridge").rename(links / "br0" / "gone")
    assert ended(await rig.ask(Verb.CREATE)) == reasons.NETWORK_UNAVAILABLE
    (links / "br0" / "gone").rename(links / "br0" / "bridge")
    assert ended(await rig.ask(Verb.CREATE)) == TaskState.CREATED
    assert rig.runs()
    assert [card.get("type") for card in ElementTree.fromstring(rig.hypervisor.xml(UID)).iterfind("devices/interface")] == [  # noqa: S314
        "bridge",
        "user",
        "network",
    ]
    rig.hypervisor.power_cut()
    allow(rig)
    assert ended(await rig.ask(Verb.START)) == reasons.BRIDGE_NOT_ALLOWED
    assert not rig.runs()
    allow(rig, "br0")
    assert ended(await rig.ask(Verb.START)) == TaskState.RUNNING
    assert rig.runs()
