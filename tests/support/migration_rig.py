"""A migration as one host sees it: the Placement says so, and the VM runs here, or was sealed."""

from typing import Any

from agent_rig import Rig
from builders import UID

from kubeferry.api.placement import Copy, Direction, Lock, LockKind, Move
from kubeferry.api.task import Proof, ProofKind, Verb


async def move(rig: Rig, *, source: str = "a", target: str = "b", direction: Direction = Direction.FORWARD, **changes: Any) -> None:
    """A migration has taken the VM's lock: epoch 2, or 3 if it goes back."""
    spec = (await rig.placement()).spec
    held = Move(direction=direction, source=source, target=target, domain=spec.domain, bytes=1 << 20, shutdown_timeout_seconds=60)
    epoch = 2 if direction == Direction.FORWARD else 3
    copies = tuple(Copy(node=node, host_id=f"host-{node}", epoch_id="e1") for node in (source, target))
    lock = Lock(kind=LockKind.MIGRATION, namespace="shop", name="move", uid="m-1")
    lineage = ("e3", "e2", "e1")[3 - epoch :]
    await rig.change(**({"epoch": epoch, "lineage": lineage, "lock": lock, "move": held, "copies": copies, "steps": ()} | changes))


async def running(rig: Rig) -> str:
    """The VM runs here, and its guest listens to the power button; its domain's XML."""
    await rig.created()
    await rig.ask(Verb.START)
    assert rig.runs()
    rig.hypervisor.listen(UID)
    return rig.hypervisor.xml(UID)


def word(kind: ProofKind, epoch: int) -> Proof:
    """What host b has acknowledged."""
    return Proof(kind=kind, node="b", host_id="host-b", epoch=epoch, seq=1)


async def sealed(rig: Rig) -> str:
    xml = await running(rig)
    await move(rig)
    await rig.ask(Verb.SEAL)
    return xml
