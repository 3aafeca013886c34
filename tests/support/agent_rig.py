"""An agent's worker on host `a`, with real files, a hypervisor that keeps libvirt's rules, and an API server that keeps its own."""

import dataclasses
from pathlib import Path

from builders import NOON, UID, placement
from fake_cluster import FakeServer
from fake_hypervisor import FakeHypervisor
from manual_clock import ManualClock
from prometheus_client import CollectorRegistry

from kubeferry.agent.creator import Creator
from kubeferry.agent.discarder import Discarder
from kubeferry.agent.effects import Effects
from kubeferry.agent.hypervisor import HypervisorCalls
from kubeferry.agent.inbox import Inbox
from kubeferry.agent.journal import JournalStore
from kubeferry.agent.machine import Machine
from kubeferry.agent.metrics import Metrics
from kubeferry.agent.preparer import Preparer
from kubeferry.agent.publisher import Publisher
from kubeferry.agent.report import Report
from kubeferry.agent.reserver import Reserver
from kubeferry.agent.revivals import Revivals
from kubeferry.agent.sealer import Sealer
from kubeferry.agent.settings import AgentSettings
from kubeferry.agent.starter import Starter
from kubeferry.agent.stopped import StopProof
from kubeferry.agent.transfer.children import Children
from kubeferry.agent.transfer.keys import ensure_keys
from kubeferry.agent.transfer.peers import Outbound, Peers
from kubeferry.agent.transfer.receivers import Receivers
from kubeferry.agent.worker import Worker
from kubeferry.api.computenode import ComputeNode, ComputeNodeStatus
from kubeferry.api.domain import DiskSource, Domain, HostPath, KernelBoot
from kubeferry.api.meta import Meta
from kubeferry.api.model import load
from kubeferry.api.placement import Placement, PlacementSpec, StepState
from kubeferry.api.task import HostTask, Proof, TaskPhase, Verb
from kubeferry.core import ledger
from kubeferry.core.journal import Journal
from kubeferry.kube.client import Cluster, endpoint
from kubeferry.kube.server import Ref

HOST_ID = "host-a"
PLACEMENT = Ref(endpoint(Placement), UID)
NODE = Ref(endpoint(ComputeNode), "a")
READ_PLACEMENT = f"get {PLACEMENT}"
CHILDREN = Children("text", held=())
TELL_NODE = f"patch status of {NODE}"


class Rig:
    """The agent, and what is around it. Its clock goes only when it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("instances", "state/journals", "images", "run"):
            (path / name).mkdir(parents=True)
        (path / "images" / "root").write_bytes(b"content of the image")
        (path / "images" / "vmlinuz").write_bytes(b"a kernel")
        images = [str(path / "images")]
        settings = AgentSettings.model_validate(
            {
                "nodeName": "a",
                "instancesPath": path / "instances",
                "statePath": path / "state",
                "runPath": path / "run",
                "migrationAddress": "127.0.0.1",
                "metrics": {"address": "127.0.0.1", "port": 0},
                "virtualizationType": "qemu",
                "allow": {"hostPaths": images, "kernelPaths": images},
            }
        )
        self.server = FakeServer()
        self.clock = ManualClock()
        self.cluster = Cluster(self.server, "test")
        self.hypervisor = FakeHypervisor()
        self.journals = JournalStore(settings.state_path)
        self.inbox = Inbox()
        self.woken: list[str] = []
        self.boot(settings, "boot-1")

    def boot(self, settings: AgentSettings, boot_id: str) -> None:
        """A new life of the agent, on the hypervisor that is there now."""
        machine = self.machine = Machine(settings=settings, host_id=HOST_ID, boot_id=boot_id)
        self.settings = settings
        clock = self.clock.time
        self.calls = HypervisorCalls(self.hypervisor, callers=4)
        self.report = Report(machine, self.journals, self.calls)
        self.publisher = Publisher(machine, self.cluster, self.report, self.woken.append, clock)
        self.receivers = Receivers()
        revivals = Revivals(clock)
        effects = self.effects = self._effects(machine, revivals)
        self.metrics = CollectorRegistry()
        counting = Metrics(self.metrics)
        self.worker = Worker(
            machine, self.cluster, self.journals, self.calls, self.inbox, effects, self.receivers, revivals, counting, lambda: None
        )

    def _effects(self, machine: Machine, revivals: Revivals) -> Effects:
        reserver = Reserver(machine, self.journals, self.calls)
        proof = StopProof(machine, self.calls)
        keys = self.keys = ensure_keys(machine.settings.state_path)
        peers = Peers(machine, self.cluster, keys)
        return Effects(
            machine=machine,
            journals=self.journals,
            hypervisor=self.calls,
            creator=Creator(machine, self.journals, reserver),
            reserver=reserver,
            preparer=Preparer(machine, reserver),
            sealer=Sealer(self.journals, self.calls, proof),
            discarder=Discarder(machine, self.journals, proof),
            proof=proof,
            peers=peers,
            outbound=Outbound(machine, peers, keys, CHILDREN),
            starter=Starter(machine, self.cluster, self.journals, self.calls, self.publisher, self.clock.time),
            revivals=revivals,
        )

    def domain(self) -> Domain:
        spec = placement().spec.domain
        disk = dataclasses.replace(spec.disks[0], source=DiskSource(host_path=HostPath(path=str(self.path / "images" / "root"))))
        return dataclasses.replace(spec, disks=(disk,), kernel_boot=KernelBoot(kernel_path=str(self.path / "images" / "vmlinuz")))

    async def place(self, **changes: object) -> Placement:
        """The VM's Placement, as the controller stores it at first."""
        spec = dataclasses.replace(placement().spec, domain=self.domain(), **changes)
        return await self.cluster.create(Placement, Meta(name=UID), spec=spec)

    async def change(self, **changes: object) -> Placement:
        """The controller writes the Placement."""
        stored = await self.cluster.get(Placement, UID)
        return await self.cluster.replace(Placement, stored.metadata, dataclasses.replace(stored.spec, **changes))

    async def placement(self) -> Placement:
        """The Placement as it is stored now."""
        return await self.cluster.get(Placement, UID)

    async def tasks(self) -> list[HostTask]:
        """Every HostTask as it is stored now."""
        return [load(HostTask, body) async for page in self.cluster.pages(HostTask) for body in page.items]

    async def ask(self, verb: Verb, proof: Proof | None = None) -> HostTask:
        """The controller asks, and the worker works; the task as it ended."""
        task = await self.write(verb, proof)
        await self.worker.reconcile(UID)
        return await self.cluster.get(HostTask, task.metadata.name)

    async def write(self, verb: Verb, proof: Proof | None = None) -> HostTask:
        """The controller asks, as it always does: ledger, then task; the agent has seen it."""
        stored = await self.cluster.get(Placement, UID)
        done = dataclasses.replace(stored.spec, steps=tuple(dataclasses.replace(s, state=StepState.SUCCEEDED) for s in stored.spec.steps))
        grace = 60 if verb in (Verb.SEAL, Verb.STOP) else None
        stored = await self.change(**_fields(ledger.ask(done, verb, "a", HOST_ID, NOON, grace=grace, proof=proof)))
        new = ledger.task(stored, stored.spec.steps[-1])
        task = await self.cluster.create(HostTask, Meta(name=new.name), spec=new.spec)
        self.inbox.put(task)
        self.worker.saw(task)
        return task

    async def created(self, **changes: object) -> None:
        """The VM is placed here and its disks are made; the Placement is changed then, and nobody started the VM."""
        await self.place(running=False)
        await self.ask(Verb.CREATE)
        await self.change(**({"running": True} | changes))
        self.clock.advance(300)  # it was halted: the gate is asked again then

    def journal(self) -> Journal:
        journal = self.journals.read(UID)
        assert journal is not None
        return journal

    def runs(self) -> bool:
        return self.hypervisor.domains().get(UID, False)

    async def told(self) -> ComputeNodeStatus:
        """What the ComputeNode says."""
        node = await self.cluster.get(ComputeNode, "a")
        assert node.status is not None
        return node.status


def begins(image: Path) -> bytes:
    """The first 20 bytes of a disk: all of it is a gigabyte of zeros."""
    with image.open("rb") as file:
        return file.read(20)


def nothing() -> None:
    """Let a request of `FakeServer.before` go by."""


def ended(task: HostTask) -> str:
    """How a task ended, in a word."""
    assert task.status is not None
    assert task.status.finished_at is not None
    if task.status.phase == TaskPhase.SUCCEEDED:
        assert task.status.result is not None
        return task.status.result.state
    assert task.status.error is not None
    return task.status.error.reason


def _fields(spec: PlacementSpec) -> dict[str, object]:
    return {"seq": spec.seq, "steps": spec.steps}
