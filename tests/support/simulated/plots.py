"""What chance alone would seldom bring about."""

import dataclasses

from kubeferry.api.migration import DecisionValue, Migration
from kubeferry.api.placement import Direction, Placement, StepState
from kubeferry.api.role import Role
from kubeferry.api.task import Verb
from kubeferry.core.journal import Journal, JournalStep
from simulated.api import Node
from simulated.base import VMS, Base
from simulated.host import Disk, SimHost


class Plots(Base):
    """Each says what happened; None: nothing."""

    def _intrigue(self) -> str | None:
        """What random faults seldom bring about: the one host that a proof is awaited of goes, is fenced, comes back, or is cut off."""
        uid = self.rng.choice(VMS[: self.profile.vms])
        placement = self.api.get(Placement, uid)
        if placement is None:
            return None
        move, spec = placement.spec.move, placement.spec
        lost = [s for s in self.hosts.values() if not s.up and s.name in self.fenced and s.holds_active(uid) and s.name != spec.node_name]
        if lost and not (self.restored and lost[0].name in self.fenced):
            self._comes_back(lost[0], uid)
            return f"{lost[0].name} comes back, and the VM is elsewhere"
        deletion = spec.lock is not None and move is None
        if not deletion and (move is None or not (move.awaiting_since or move.direction == Direction.BACK)):
            return None
        sim = self.hosts[spec.copies[0].node if move is None and spec.copies else move.target if move is not None else "a"]
        roll = self.rng.random()
        if sim.up and sim.name in self.fenced and roll < 0.4:
            sim.cut_off = True
            self.now += 45
            return f"{sim.name} is back, and cut off"
        if sim.up:
            if roll < 0.3:
                sim.lose_power()
                return f"{sim.name} goes"
            return None
        if sim.name not in self.fenced:
            self.now += 45
            node = self.api.get(Node, sim.name)
            if node is not None:
                self.api.put(dataclasses.replace(node, fence=sim.boot_id))
                self.fenced.add(sim.name)
            return f"{sim.name} is fenced"
        if roll < 0.5:
            return self._everybody_reverts()
        self._comes_back(sim, uid)
        return f"{sim.name} comes back: {self._everybody_reverts()}"

    def _everybody_reverts(self) -> str | None:
        for migration in self.api.objects[Migration].values():
            if migration.spec.decision is None:
                return self.decide(migration, DecisionValue.REVERT)
        return None

    def _comes_back(self, sim: SimHost, uid: str) -> None:
        """It is on again, and its agent is quick."""
        sim.cut_off = False
        sim.power_on()
        sim.begin()
        sim.revive(uid)
        sim.go_on(self.rng.randint(0, 8))

    def _plant(self) -> str | None:
        """An older copy lies, unseen so far, on a host that is about to be prepared: somebody has brought back its disk and its journal."""
        placement = self.api.get(Placement, self.rng.choice(VMS[: self.profile.vms]))
        if placement is None:
            return None
        uid, spec = placement.metadata.name, placement.spec
        asked = [s.node for s in spec.steps if s.verb == Verb.PREPARE and s.state == StepState.PENDING]
        sims = [sim for sim in self.hosts.values() if sim.name in asked and uid not in sim.journals and uid not in sim.disks]
        if not sims or len(spec.lineage) < 2:
            return None
        sim, age = sims[0], self.rng.randrange(1, len(spec.lineage))
        role = self.rng.choice((Role.INCOMING, Role.VERIFIED, Role.SEALING, Role.SEALED, Role.RELEASED))
        step = JournalStep(seq=1, verb=Verb.SEAL)
        sim.journals[uid] = Journal(
            uid=uid, epoch=spec.epoch - age, epoch_id=spec.lineage[age], role=role, step=step, domain=spec.domain, source="elsewhere"
        )
        sim.disks[uid] = Disk(whole=True, fresh=False, content="older")
        sim.foreign.add(uid)
        return f"{role} of epoch {spec.epoch - age} on {sim.name}"

    def _conspiracy(self) -> str | None:
        """A backup that is taken, and restored, when it hurts."""
        placement = self.api.get(Placement, VMS[0])
        if placement is None or self.restored:
            return None
        spec = placement.spec
        pending = {s.verb for s in spec.steps if s.state == StepState.PENDING}
        if not self.backups:
            if spec.move is None or not (Verb.COPY in pending or spec.move.awaiting_since or spec.move.direction == Direction.BACK):
                return None
            if self.rng.random() > (0.6 if spec.move.awaiting_since else 0.1):
                return None
            self.backups.append(self.api.backup())
            return "taken in mid-migration"
        was = self.backups[0][Placement][VMS[0]].spec
        changed = spec.epoch != was.epoch or spec.node_name != was.node_name
        lives_elsewhere = spec.node_name not in ("", was.node_name)
        if not changed or self.rng.random() > (0.5 if lives_elsewhere else 0.05):
            return None
        self._restore()
        decided = self._somebody_decides()
        for _ in range(self.rng.choice((0, 40))):  # before any host has told of itself
            self.controllers[0].advance(VMS[0])
        return f"restored, from epoch {spec.epoch} to {was.epoch}: {decided}"

    def _somebody_decides(self) -> str | None:
        """Of the migration that holds the VM now, if any, it is decided at once."""
        placement = self.api.get(Placement, VMS[0])
        lock = None if placement is None else placement.spec.lock
        held = None if lock is None else self.api.get(Migration, lock.name)
        if held is None or held.spec.decision is not None or self.rng.random() < 0.3:
            return None
        return self.decide(held, self._value())

    def _backup(self) -> str | None:
        if not self.backups:
            if self.rng.random() > 0.25:
                return None
            self.backups.append(self.api.backup())
            self.note_backup()
            return "taken"
        if self.restored or self.rng.random() > 0.12:
            return None
        self._restore()
        return "restored"

    def _restore(self) -> None:
        self.api.restore(self.backups[0])
        for controller in self.controllers:
            if self.rng.random() < 0.5:  # else it goes on, by what it saw, until its watches tell
                controller.restart()
        self.note_restore()
