"""What must hold after every event, whatever happened: the invariants of the protocol, by their numbers in its text."""

from typing import TYPE_CHECKING, Any

from kubeferry.api import reasons
from kubeferry.api.meta import Status, condition
from kubeferry.api.migration import DecisionSource, DecisionValue, Migration
from kubeferry.api.placement import Direction, LockKind, Outcome, Placement, PlacementSpec, StepState
from kubeferry.api.role import Role
from kubeferry.api.task import HostTask, ProofKind, Verb
from kubeferry.api.virtualmachine import VirtualMachine
from kubeferry.core import power, resize
from kubeferry.core.migration import finished
from simulated.base import Base
from simulated.host import GATE_VALID, SimHost

if TYPE_CHECKING:
    pass


class ViolationError(Exception):
    """Something that must never be."""


class Checks(Base):
    """What the world remembers to judge by, and the judgement."""

    def __init__(self) -> None:
        self.deleted: set[str] = set()
        self.restored = False
        self._steps: set[tuple[str, str, int, Verb]] = set()
        self._outcomes: dict[str, tuple[Outcome, DecisionValue | None]] = {}
        self._ended: dict[str, Any] = {}
        self._seen_running: set[tuple[str, str, str]] = set()
        """(VM, epoch id, host)."""
        self._backup_steps: set[tuple[str, str, int, Verb]] = set()
        self._attested: set[str] = set()
        self._halted_at: dict[str, float] = {}

    def violated(self, invariant: int | str, message: str) -> None:
        """Raises ViolationError."""
        raise ViolationError(f"invariant {invariant}: {message}")

    # At each event

    def check(self) -> None:
        """1, 2, and that no VM's data is lost."""
        for uid in self.api.objects[Placement]:
            running = [sim.name for sim in self.hosts.values() if uid in sim.run]
            if len(running) > 1:
                self.violated(1, f"{uid} runs on {' and '.join(running)}")
            placement: Placement = self.api.objects[Placement][uid]
            self._check_data(uid, placement.spec)

    def _check_data(self, uid: str, spec: PlacementSpec) -> None:
        if uid not in self.deleted and not any(uid in s.disks and s.disks[uid].whole and s.disks[uid].fresh for s in self.hosts.values()):
            self.violated("data", f"the data of {uid} is lost")
        held = spec.lock is not None and spec.lock.kind == LockKind.MIGRATION and spec.move is not None
        if held and spec.move is not None and not self.restored:
            source = self.hosts[spec.move.source]
            if uid not in source.disks or not source.disks[uid].whole:
                self.violated(2, f"the source's disk of {uid} on {source.name} is gone, or torn, before Confirm")
        for sim in self.hosts.values():
            journal = sim.journals.get(uid)
            stays = journal is not None and journal.role in (Role.SEALED, Role.RELEASED) and uid in sim.disks
            if stays and sim.disks[uid].content != sim.sealed.get(uid, sim.disks[uid].content):
                self.violated(2, f"the disk of {uid} on {sim.name} has changed since it was sealed")

    def check_jobs(self, sim: SimHost) -> None:
        """10: one command of a VM at a time."""
        uids = [job.uid for job in sim.jobs]
        if len(uids) != len(set(uids)):
            self.violated(10, f"{sim.name} is at work on {uids}")

    def begins_to_run(self, sim: SimHost, uid: str) -> None:
        """4, 12: QEMU is started on a disk that is whole and is what the VM is to go on with, of a copy that is journaled ACTIVE."""
        disk, journal = sim.disks.get(uid), sim.journals.get(uid)
        placement = self.api.objects[Placement].get(uid)
        if disk is None or not disk.whole:
            self.violated(4, f"{uid} is started on {sim.name} on a disk that is not whole")
        if not disk.fresh:
            self.violated(4, f"{uid} is started on {sim.name} on a stale copy")
        if journal is None or (journal.role != Role.ACTIVE and "transient" not in self.without):
            self.violated(12, f"{uid} is started on {sim.name} before it is journaled ACTIVE")
        if placement is not None and not placement.spec.running and self.now - self._halted_at.get(uid, self.now) > GATE_VALID:
            self.violated("halted", f"{uid} is started on {sim.name}, and its run strategy keeps it stopped")
        if placement is not None and self._is_being_discarded(placement.spec):
            self.violated(3, f"{uid} is started on {sim.name} after its deletion has begun to discard")
        sim.run.add(uid)
        if journal.domain is not None:
            sim.with_domain[uid] = journal.domain
        sim.defined.add(uid)
        self._seen_running.add((uid, journal.epoch_id, sim.name))
        move = placement.spec.move if placement is not None else None
        held = move is not None and move.source if move is not None and sim.name == move.target else None
        for other in self.hosts.values():  # what runs changes its disk: every other copy is stale, but a source that is held for Revert
            if other is not sim and uid in other.disks and other.name != held:
                other.disks[uid].fresh = False
        self.check()

    def is_ready(self, sim: SimHost, uid: str) -> None:
        """A host tells that it would start a VM which is halted: as good as running."""
        self._seen_running.add((uid, sim.journals[uid].epoch_id, sim.name))
        if not sim.disks[uid].whole or not sim.disks[uid].fresh:
            self.violated(4, f"{uid} would be started on {sim.name}, whose disk is not whole or stale")

    @staticmethod
    def _is_being_discarded(spec: PlacementSpec) -> bool:
        return spec.lock is not None and spec.lock.kind == LockKind.DELETION and any(s.verb == Verb.DISCARD for s in spec.steps)

    def check_trash(self, sim: SimHost, uid: str) -> None:
        """3, 11: no copy that a migration may go back to goes to the trash, none that runs, and none that was never ours."""
        if uid in sim.foreign:
            self.violated(11, f"the disk of {uid} goes to the trash of {sim.name}, and no Prepare has made it")
        if uid in sim.run:
            self.violated(3, f"the disk of {uid} goes to the trash of {sim.name} while it runs there")
        spec: PlacementSpec | None = self.api.objects[Placement][uid].spec if uid in self.api.objects[Placement] else None
        if spec is not None and spec.move is not None and not self.restored and spec.move.source == sim.name:
            self.violated(3, f"the source's disk of {uid} goes to the trash of {sim.name} before the decision")

    # At each write of the controller

    def remember_steps(self, placement: Placement) -> None:
        """What the ledger holds."""
        spec = placement.spec
        for s in spec.steps:
            if spec.epoch - s.epoch < len(spec.lineage):
                self._steps.add((placement.metadata.name, spec.lineage[spec.epoch - s.epoch], s.seq, s.verb))

    def check_task(self, placement: Placement, task: HostTask) -> None:
        """12: ledger, then task."""
        if (placement.metadata.name, task.spec.epoch_id, task.spec.seq, task.spec.verb) not in self._steps:
            self.violated(12, f"{task.metadata.name} was created, and no stored ledger ever had its step")

    def check_placement(self, before: Placement | None, written: Placement) -> None:
        """3, 6, 7, 8: of what the controller has just stored."""
        uid, spec = written.metadata.name, written.spec
        if before is not None and before.spec.epoch > spec.epoch:
            self.violated(7, f"the epoch of {uid} falls from {before.spec.epoch} to {spec.epoch}")
        if before is not None and before.spec.running and not spec.running:
            self._halted_at[uid] = self.now
        self.remember_steps(written)
        self._check_proofs(uid, spec)
        self._check_deletion(uid, spec)
        for entry in spec.settled:
            outcome = (entry.outcome, None if entry.decision is None else entry.decision.value)
            if not self.restored and self._outcomes.setdefault(entry.migration_uid, outcome) != outcome:
                self.violated(8, f"{entry.migration_uid} was {self._outcomes[entry.migration_uid]}, and is {outcome}")
        confirmed = before is not None and before.spec.move is not None and spec.lock is None
        if confirmed and before is not None and spec.settled and spec.settled[-1].outcome == Outcome.CONFIRMED:
            self._check_confirmed(uid, before.spec)
        self._check_deadline(before, spec)
        self._check_forgotten(before, spec)
        if spec.move is not None and spec.move.decision is not None and spec.move.direction == Direction.FORWARD:
            self.violated(8, f"{uid} was decided, and goes on")

    def _check_forgotten(self, before: Placement | None, spec: PlacementSpec) -> None:
        """An outcome stays until its Migration was told of it, or is gone."""
        kept = {entry.migration_uid for entry in spec.settled}
        untold = {m.metadata.uid for m in self.api.objects[Migration].values() if not finished(m)}
        for entry in () if before is None or self.restored else before.spec.settled:
            if entry.migration_uid in untold - kept:
                self.violated("outcome", f"the outcome of {entry.migration_uid} is forgotten, and was never told")

    def _check_deadline(self, before: Placement | None, spec: PlacementSpec) -> None:
        """13: what is decided for want of a decision is what the Migration says, and not before its time."""
        move = None if before is None else before.spec.move
        decision = spec.move.decision if spec.move is not None else spec.settled[-1].decision if spec.settled else None
        if move is None or move.decision is not None or decision is None or decision.source != DecisionSource.TIMEOUT:
            return
        lock = before.spec.lock if before is not None else None
        asked = None if lock is None else self.api.objects[Migration].get(lock.name)
        seconds = None if asked is None else asked.spec.decision_timeout_seconds
        if asked is None or seconds is None or move.awaiting_since is None or asked.spec.on_decision_timeout != decision.value:
            self.violated(13, f"{decision.value} was decided for want of a decision, and nobody has asked for that")
        since = max(filter(None, (move.awaiting_since, asked.metadata.creation_timestamp)))
        if (decision.time - since).total_seconds() < seconds:
            self.violated(13, f"{asked.metadata.name} was decided before its deadline")

    def _check_confirmed(self, uid: str, spec: PlacementSpec) -> None:
        move = spec.move
        if move is None:
            return
        if (uid, spec.epoch_id, move.target) not in self._seen_running:
            self.violated(3, f"{uid} was confirmed, and never ran on {move.target} in this epoch")
        for sim in self.hosts.values():  # the source is given up: what it holds is history
            if sim.name == move.source and uid in sim.disks:
                sim.disks[uid].fresh = False
        self.check()

    def _check_deletion(self, uid: str, spec: PlacementSpec) -> None:
        if not self._is_being_discarded(spec):
            return
        for copy in spec.copies:
            sealed = any(s.verb == Verb.SEAL and s.host_id == copy.host_id and s.state == StepState.SUCCEEDED for s in spec.steps)
            if not sealed and copy.node not in self.fenced:
                self.violated(6, f"{uid} is discarded, and {copy.node} was neither sealed nor fenced")

    def _check_proofs(self, uid: str, spec: PlacementSpec) -> None:
        for step in spec.steps:
            if step.verb != Verb.ACTIVATE or step.state != StepState.PENDING or step.proof is None or step.epoch != spec.epoch:
                continue
            proved = next((s for s in spec.steps if s.seq == step.proof.seq), None)
            if step.proof.kind == ProofKind.FENCE:
                continue
            if proved is None or proved.state != StepState.SUCCEEDED:
                self.violated(6, f"{uid}: {step.proof.kind} of {step.proof.node} is the proof, and was never acknowledged")

    def check_told(self, migration: Migration) -> None:
        """8: an end that was told stays."""
        told = None if migration.status is None else (migration.status.phase, condition(migration.status.conditions, reasons.SUCCEEDED))
        key = migration.metadata.uid
        if finished(migration) and told is not None and told[1] is not None and not self.restored:
            end = (told[0], told[1].status, told[1].reason)
            if self._ended.setdefault(key, end) != end:
                self.violated(8, f"{key} had ended {self._ended[key]}, and is told as {end}")
        elif key in self._ended and not self.restored:
            self.violated(8, f"{key} had ended, and is told as unfinished")

    def check_removed(self, placement: Placement) -> None:
        """14: a Placement goes only once nothing of its VM is anywhere."""
        uid = placement.metadata.name
        if uid not in self.deleted or any(uid in sim.disks for sim in self.hosts.values()):
            self.violated(14, f"the Placement of {uid} is removed, and a host holds a disk of it")

    # Backups

    def note_backup(self) -> None:
        """etcd was backed up."""

    def note_restore(self) -> None:
        """etcd is as it was; a decision that it does not know of is open again, so the source that is held may be gone back to."""
        self.restored = True
        for uid, placement in self.api.objects[Placement].items():
            move = placement.spec.move
            self.remember_steps(placement)
            if move is not None and uid in self.hosts[move.source].disks:
                sim = self.hosts[move.source]
                journal = sim.journals.get(uid)
                if sim.disks[uid].whole and journal is not None and journal.role in (Role.SEALED, Role.RELEASED):
                    sim.disks[uid].fresh = True

    # The end

    def attention(self, uid: str) -> str | None:
        """What a human is told to look at, of a VM or a Migration of it."""
        vm: VirtualMachine | None = self.api.objects[VirtualMachine].get(uid)
        told = [vm.status.conditions] if vm is not None and vm.status is not None else []
        told += [
            m.status.conditions for m in self.api.objects[Migration].values() if m.spec.virtual_machine.name == uid and m.status is not None
        ]
        for conditions in told:
            found = condition(conditions, reasons.NEEDS_ATTENTION)
            if found is not None and found.status == Status.TRUE:
                return f"{found.reason}: {found.message}"
        return None

    def unsettled(self, uid: str) -> str | None:
        """What of a VM is not at its end yet; None: all is."""
        placement: Placement | None = self.api.objects[Placement].get(uid)
        if uid in self.deleted:
            if placement is not None or uid in self.api.objects[VirtualMachine] or any(uid in sim.disks for sim in self.hosts.values()):
                return "its deletion has not come to its end"
            return None
        if placement is None:
            return "it has no Placement"
        spec = placement.spec
        if spec.lock is not None:
            return f"it is locked by {spec.lock.name}: {spec.move}, {[(s.seq, s.verb, s.node, s.state, s.error) for s in spec.steps]}"
        if pending := [(s.seq, s.verb, s.node) for s in spec.steps if s.state == StepState.PENDING]:
            return f"it waits for {pending}"
        if (seen := self._runs_otherwise(uid, spec)) is not None:
            return seen
        if [copy.node for copy in spec.copies] != [spec.node_name]:
            return f"copies are on {[(c.node, c.discard) for c in spec.copies]}: {spec.steps}"
        mine = [m for m in self.api.objects[Migration].values() if m.spec.virtual_machine.name == uid]
        if spec.settled:
            return f"it keeps outcomes for ever: {[entry.migration_uid for entry in spec.settled]}"
        open_ones = [m.metadata.name for m in mine if not finished(m)]
        return f"{open_ones} have not ended: {[m.status for m in mine]}" if open_ones else None

    def _runs_otherwise(self, uid: str, spec: PlacementSpec) -> str | None:
        """Where and how it runs, if that is not as its owner wants it and its Placement says."""
        running = [sim.name for sim in self.hosts.values() if uid in sim.run]
        vm = self.api.objects[VirtualMachine].get(uid)
        wanted = [spec.node_name] if vm is None or power.wanted(vm) else []
        if running != wanted:
            return f"it runs on {running}, and its Placement says {spec.node_name}"
        if running and resize.of_domain(self.hosts[spec.node_name].with_domain[uid]) != resize.of_domain(spec.domain):
            return f"it runs with {self.hosts[spec.node_name].with_domain[uid]}, and its Placement says {spec.domain}"
        told = None if vm is None or vm.status is None else condition(vm.status.conditions, reasons.SPEC_IN_SYNC)
        if spec.spec_pending is not None and (told is None or told.status == Status.TRUE):
            return f"a resize was confirmed, which its spec does not tell: {spec.spec_pending}"
        return None

    def at_rest(self) -> bool:
        """Whether nothing more is to come."""
        return all(self.unsettled(uid) is None for uid in self._vms())

    def all_told(self) -> bool:
        """Whether a human is told of every VM that is not at its end."""
        return all(self.unsettled(uid) is None or self.attention(uid) is not None for uid in self._vms())

    def _vms(self) -> list[str]:
        return sorted({*self.api.objects[Placement], *self.api.objects[VirtualMachine]})

    def check_end(self) -> None:
        """13, 15: everything has come to its end; or, after a restore alone, a human is told what to look at."""
        for uid in self._vms():
            left, told = self.unsettled(uid), self.attention(uid)
            if left is not None and not (self.restored and told is not None):
                self.violated(13, f"{uid} has not come to an end: {left}; a human is told {told}")
            if left is None and told is not None and not self.restored:
                self.violated(15, f"{uid} is at its end, and a human is told {told}")
