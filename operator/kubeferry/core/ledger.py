"""The ledger of a Placement: which tasks were asked, and what came of them. Ledger, then task; outcome, then its removal."""

import dataclasses
import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta

from kubeferry.api.placement import Copy, Placement, PlacementSpec, Step, StepState
from kubeferry.api.task import HostTask, HostTaskSpec, PlacementReference, Proof, TaskPhase, TaskProgress, Verb
from kubeferry.core import bandwidth
from kubeferry.core.observed import NewTask, Stranger
from kubeferry.core.parameters import parameters

FAILED_KEPT = timedelta(hours=1)
FAILED_KEPT_PER_VERB = 8
"""Enough to compute a back-off from, and the ledger stays bounded."""
LINEAGE_LENGTH = 64
NOTED_EVERY = timedelta(seconds=5)
"""Between two notes of how far a Copy is."""
FIRST_RETRY = timedelta(seconds=5)
LONGEST_RETRY = timedelta(minutes=5)

_ENDED = {
    TaskPhase.SUCCEEDED: StepState.SUCCEEDED,
    TaskPhase.FAILED: StepState.FAILED,
    TaskPhase.SUPERSEDED: StepState.SUPERSEDED,
}


def task_name(spec: PlacementSpec, step: Step) -> str:
    """The deterministic name of a step's HostTask: asked again, it is the same task."""
    digest = hashlib.sha256(f"{spec.virtual_machine.uid}/{_epoch_id(spec, step)}".encode()).hexdigest()[:16]
    return f"t-{digest}-{step.seq}-{step.verb.lower()}"


def _epoch_id(spec: PlacementSpec, step: Step) -> str:
    return spec.lineage[spec.epoch - step.epoch]


def ask(
    spec: PlacementSpec, verb: Verb, node: str, host_id: str, now: datetime, *, grace: int | None = None, proof: Proof | None = None
) -> PlacementSpec:
    """The Placement with one more Pending step at the current epoch.

    Args:
        spec: the Placement.
        verb: what is asked.
        node: of which node.
        host_id: identity of its host.
        now: the time, in UTC.
        grace: of a Seal or Stop, seconds that the guest gets to shut down.
        proof: of an Activate, why that host may start what another had the right to start.
    """
    step = Step(
        seq=spec.seq + 1,
        verb=verb,
        node=node,
        host_id=host_id,
        epoch=spec.epoch,
        state=StepState.PENDING,
        started_at=now,
        grace_seconds=grace,
        proof=proof,
    )
    return dataclasses.replace(spec, seq=step.seq, steps=(*spec.steps, step))


def task(placement: Placement, step: Step) -> NewTask:
    """The HostTask of a step; all its parameters come from the Placement."""
    spec = placement.spec
    bare = HostTaskSpec(
        node=step.node,
        host_id=step.host_id,
        verb=step.verb,
        epoch=step.epoch,
        epoch_id=_epoch_id(spec, step),
        seq=step.seq,
        placement=PlacementReference(name=placement.metadata.name, uid=placement.metadata.uid),
    )
    return NewTask(name=task_name(spec, step), spec=parameters(spec, step, bare))


def raise_epoch(spec: PlacementSpec, fresh_id: str) -> PlacementSpec:
    """The Placement at its next epoch, whose ledger is empty.

    A Discard that is still asked for stays marked in `copies`, and is asked for again at the new epoch. Of every other step that
    is Pending no answer is waited for any more: its host refuses it once it has acted on the new epoch.

    Args:
        spec: the Placement.
        fresh_id: an id that was never used.
    """
    lineage = (fresh_id, *spec.lineage)[:LINEAGE_LENGTH]
    return dataclasses.replace(spec, epoch=spec.epoch + 1, lineage=lineage, steps=())


def settle(placement: Placement, tasks: Iterable[HostTask], now: datetime) -> PlacementSpec:
    """The Placement with the outcomes of its tasks copied into the ledger, and what is old dropped from it.

    Only a task that asks exactly what the ledger says answers for a step: after a restore of etcd, names are used again.
    """
    spec = placement.spec
    by_name = {t.metadata.name: t for t in tasks}
    steps = tuple(_outcome(placement, step, by_name.get(task_name(spec, step)), now) for step in spec.steps)
    # A Preflight leaves the host's journal as it is.
    done = [s for s in steps if s.state == StepState.SUCCEEDED and s.verb != Verb.PREFLIGHT]
    copies = tuple(_acknowledged(spec, copy, [s.epoch for s in done if s.host_id == copy.host_id]) for copy in spec.copies)
    return dataclasses.replace(spec, steps=_pruned(steps, spec.epoch, now), copies=copies)


def _acknowledged(spec: PlacementSpec, copy: Copy, epochs: list[int]) -> Copy:
    """The copy with the id of the newest epoch that its host acknowledged; an old step that ends late takes nothing back."""
    known = [spec.epoch - spec.lineage.index(copy.epoch_id)] if copy.epoch_id in spec.lineage else []
    newest = max([*epochs, *known], default=None)
    return copy if newest is None else dataclasses.replace(copy, epoch_id=spec.lineage[spec.epoch - newest])


def _outcome(placement: Placement, step: Step, done: HostTask | None, now: datetime) -> Step:
    if step.state != StepState.PENDING or done is None or done.status is None or not bandwidth.same(done.spec, task(placement, step).spec):
        return step
    status = done.status
    if status.phase not in _ENDED:
        return _moved(step, status.progress, now)
    return dataclasses.replace(step, state=_ENDED[status.phase], finished_at=now, result=status.result, error=status.error)


def _moved(step: Step, progress: TaskProgress | None, now: datetime) -> Step:
    """The step with the progress that its host tells, noted now and then: how long it has not moved must outlive a controller."""
    if progress in (None, step.progress) or (step.moved_at is not None and now - step.moved_at < NOTED_EVERY):
        return step
    return dataclasses.replace(step, progress=progress, moved_at=now)


def to_be_noted(spec: PlacementSpec, step: Step, tasks: Iterable[HostTask]) -> datetime | None:
    """When progress that its host has told, and that does not stand in the ledger yet, is to be noted there; None: all does."""
    name = task_name(spec, step)
    told = next((t.status.progress for t in tasks if t.metadata.name == name and t.status is not None), None)
    return None if told in (None, step.progress) or step.moved_at is None else step.moved_at + NOTED_EVERY


def _pruned(steps: tuple[Step, ...], epoch: int, now: datetime) -> tuple[Step, ...]:
    def stays(step: Step, later: tuple[Step, ...]) -> bool:
        if step.state == StepState.PENDING:
            return True
        if step.epoch != epoch:
            return False
        # The newest of each verb on each host says how things stand, however old it is.
        if all((other.verb, other.host_id) != (step.verb, step.host_id) for other in later):
            return True
        failed_later = sum(other.verb == step.verb and other.state == StepState.FAILED for other in later)
        return (
            step.state == StepState.FAILED
            and failed_later < FAILED_KEPT_PER_VERB
            and step.finished_at is not None
            and now - step.finished_at < FAILED_KEPT
        )

    return tuple(step for index, step in enumerate(steps) if stays(step, steps[index + 1 :]))


def pending(placement: Placement) -> tuple[NewTask, ...]:
    """The tasks of the Pending steps, whether they are there or not."""
    return tuple(task(placement, step) for step in placement.spec.steps if step.state == StepState.PENDING)


def missing(placement: Placement, tasks: Iterable[HostTask]) -> tuple[NewTask, ...]:
    """The tasks that Pending steps lack: never created, or gone before their outcome was recorded."""
    names = {t.metadata.name for t in tasks}
    return tuple(new for new in pending(placement) if new.name not in names)


def recorded(spec: PlacementSpec, tasks: Iterable[HostTask]) -> tuple[str, ...]:
    """Names of the tasks whose outcome stands in the ledger, or whose step is long gone from it."""
    pending = {step.seq for step in spec.steps if step.state == StepState.PENDING}
    return tuple(t.metadata.name for t in tasks if t.spec.seq <= spec.seq and t.spec.seq not in pending)


def strangers(placement: Placement, tasks: Iterable[HostTask]) -> tuple[Stranger, ...]:
    """Those that bear the name of a Pending step's task, but ask something else."""
    specs = {t.metadata.name: t.spec for t in tasks}
    return tuple(
        Stranger(new, specs[new.name]) for new in pending(placement) if not bandwidth.same(specs.get(new.name, new.spec), new.spec)
    )


def last(spec: PlacementSpec, verb: Verb) -> Step | None:
    """The newest step of that verb in the ledger."""
    return max((s for s in spec.steps if s.verb == verb), key=lambda s: s.seq, default=None)


def at_epoch(spec: PlacementSpec, verb: Verb, host_id: str) -> Step | None:
    """The newest step of that verb on that host at the current epoch; None: it was not asked."""
    mine = (s for s in spec.steps if (s.verb, s.host_id, s.epoch) == (verb, host_id, spec.epoch))
    return max(mine, key=lambda s: s.seq, default=None)


def again(spec: PlacementSpec, broken: Step, now: datetime) -> tuple[PlacementSpec, timedelta | None]:
    """The Placement with a step that failed asked once more, as it was; or when that is due."""
    alike = (s for s in spec.steps if (s.verb, s.host_id, s.epoch) == (broken.verb, broken.host_id, broken.epoch))
    due = retry_due(sum(s.state in (StepState.FAILED, StepState.SUPERSEDED) for s in alike), broken, now)
    if due > now:
        return spec, due - now
    return ask(spec, broken.verb, broken.node, broken.host_id, now, grace=broken.grace_seconds, proof=broken.proof), None


def retry_due(failures: int, step: Step, now: datetime) -> datetime:
    """When a step that failed is asked again: later each time, from 5 s to 5 minutes.

    Args:
        failures: how often it failed; at least once.
        step: the one that failed last.
        now: the time, in UTC.
    """
    delay: timedelta = min(FIRST_RETRY * 2 ** (failures - 1), LONGEST_RETRY)
    return (step.finished_at or now) + delay


def failed(spec: PlacementSpec, *verbs: Verb) -> Step | None:
    """The newest step that ended, of those verbs, if it failed; that it was asked again meanwhile mends nothing yet."""
    ended = (s for s in spec.steps if s.state != StepState.PENDING and s.verb in verbs)
    newest = max(ended, key=lambda s: s.seq, default=None)
    return None if newest is None or newest.state == StepState.SUCCEEDED else newest


def created(spec: PlacementSpec) -> bool:
    """Whether the VM's disks were made. No later epoch begins before that, and its ledger tells no more of a Create."""
    step = last(spec, Verb.CREATE)
    return spec.epoch > 1 or (step is not None and step.state == StepState.SUCCEEDED)
