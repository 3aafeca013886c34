"""What people do."""

import dataclasses

from kubeferry.api.domain import Cpu
from kubeferry.api.meta import Meta
from kubeferry.api.migration import DecisionValue, Migration, MigrationPhase, MigrationSpec
from kubeferry.api.model import load
from kubeferry.api.virtualmachine import DomainTemplate, RunStrategy, VirtualMachine
from simulated.api import Node
from simulated.base import NAMES, VMS, Base

_SWITCHED_OVER = (MigrationPhase.ACTIVATING, MigrationPhase.AWAITING_DECISION)


class Users(Base):
    """Each says what was done; None: nothing."""

    def _user(self) -> str | None:
        roll = self.rng.random()
        if roll < 0.4 and self.made < self.profile.migrations:
            return self._create_migration()
        open_ones = [m for m in self.api.objects[Migration].values() if m.spec.decision is None]
        if not open_ones:
            return None
        chosen = self.rng.choice(sorted(open_ones, key=lambda m: m.metadata.name))
        if roll > 0.97:
            return self._delete_migration(chosen)
        awaits = chosen.status is not None and chosen.status.phase == MigrationPhase.AWAITING_DECISION
        if not awaits and self.rng.random() > self.profile.early:
            return None
        if awaits and self.profile.intrigue and self.rng.random() < 0.9:  # the intrigue is to have its time
            return None
        return self.decide(chosen, self._value())

    def _create_migration(self) -> str:
        self.made += 1
        uid = self.rng.choice(VMS[: self.profile.vms])
        wish: dict[str, object] = {"virtualMachine": {"name": uid}}
        if self.rng.random() < 0.25:
            wish["targetNode"] = self.rng.choice(NAMES)
        wish |= self._terms()
        meta = Meta(name=f"m-{self.made}", namespace="shop", uid=f"m-{self.made}", generation=1, creation_timestamp=self.time())
        self.api.create(Migration(metadata=meta, spec=load(MigrationSpec, wish)))
        return f"{meta.name} of {uid} {wish.get('targetNode', '')}"

    def _terms(self) -> dict[str, object]:
        """What it says of times and of where the VM must be."""
        terms: dict[str, object] = {}
        if self.rng.random() < self.profile.terms:
            terms |= {"decisionTimeoutSeconds": self.rng.choice((1, 30, 300)), "onDecisionTimeout": str(self._value())}
        if self.rng.random() < self.profile.terms:
            terms["startDeadlineSeconds"] = self.rng.choice((1, 60, 600))
        if self.rng.random() < self.profile.resize:
            terms["resize"] = {"cpu": {"cores": self.rng.randint(1, 4)}} | self.rng.choice(({}, {"memory": {"guest": "1Gi"}}))
        if self.rng.random() < self.profile.terms / 4:
            terms["sourceNode"] = self.rng.choice(NAMES)
        return terms

    def decide(self, of: Migration, value: DecisionValue) -> str:
        """A person patches spec.decision."""
        meta = dataclasses.replace(of.metadata, generation=of.metadata.generation + 1)
        self.api.put(dataclasses.replace(of, metadata=meta, spec=dataclasses.replace(of.spec, decision=value)))
        return f"{of.metadata.name} {value}"

    def _value(self) -> DecisionValue:
        return DecisionValue.REVERT if self.rng.random() < self.profile.reverts else DecisionValue.CONFIRM

    def _delete_migration(self, of: Migration) -> str:
        meta = of.metadata
        if meta.finalizers:
            self.api.put(dataclasses.replace(of, metadata=dataclasses.replace(meta, deletion_timestamp=self.time())))
        else:
            self.api.drop(Migration, meta.name)
        return f"{meta.name} deleted"

    def _vanish(self) -> str | None:
        """Somebody strips a Migration of its finalizer and deletes it; mostly one of its name is made anew."""
        held = [m for m in self.api.objects[Migration].values() if m.metadata.finalizers]
        switched = [m for m in held if m.status is not None and m.status.phase in _SWITCHED_OVER]
        if not held or (not switched and self.rng.random() < 0.8):
            return None
        gone = self.rng.choice(sorted(switched or held, key=lambda m: m.metadata.name))
        self.api.drop(Migration, gone.metadata.name)
        self.vanished[gone.metadata.name] = gone
        if self.rng.random() < 0.3:
            return f"{gone.metadata.name} vanished"
        self.make_anew(gone.metadata.name)
        return f"{gone.metadata.name} vanished, and was made anew"

    def make_anew(self, name: str) -> None:
        """One of the name of a Migration that vanished, which asks for the same and is not decided."""
        gone = self.vanished[name]
        self.made += 1
        changes = {"uid": f"m-{self.made}", "finalizers": (), "creation_timestamp": self.time(), "deletion_timestamp": None}
        meta = dataclasses.replace(gone.metadata, **changes)
        self.api.create(Migration(metadata=meta, spec=dataclasses.replace(gone.spec, decision=None)))

    def _delete_vm(self) -> str | None:
        vm = self.api.get(VirtualMachine, self.rng.choice(VMS[: self.profile.vms]))
        if vm is None or vm.metadata.deletion_timestamp is not None or self.rng.random() > 0.3:
            return None
        self.api.put(dataclasses.replace(vm, metadata=dataclasses.replace(vm.metadata, deletion_timestamp=self.time())))
        self.deleted.add(vm.metadata.uid)
        return vm.metadata.uid

    def _halt_or_start(self) -> str | None:
        """The VM's owner wants it to be stopped, or to run again."""
        vm = self.api.get(VirtualMachine, self.rng.choice(VMS[: self.profile.vms]))
        if vm is None or self.rng.random() > 0.5:
            return None
        wanted = RunStrategy.HALTED if vm.spec.run_strategy == RunStrategy.ALWAYS else RunStrategy.ALWAYS
        meta = dataclasses.replace(vm.metadata, generation=vm.metadata.generation + 1)
        self.api.put(dataclasses.replace(vm, metadata=meta, spec=dataclasses.replace(vm.spec, run_strategy=wanted)))
        return f"{vm.metadata.uid} {wanted}"

    def _edit(self) -> str | None:
        """The VM's owner wants other CPUs."""
        vm = self.api.get(VirtualMachine, self.rng.choice(VMS[: self.profile.vms]))
        if vm is None:
            return None
        domain = vm.spec.template.spec.domain
        wanted = dataclasses.replace(domain, cpu=Cpu(cores=self.rng.randint(1, 4)))
        self.api.put(with_domain(vm, wanted))
        return f"{vm.metadata.uid} {wanted.cpu.cores} CPUs"

    def _fence(self) -> str | None:
        down = [sim for sim in self.hosts.values() if not sim.up]
        if not down:
            return None
        sim = self.rng.choice(down)
        node = self.api.get(Node, sim.name)
        if node is None or node.fence == sim.boot_id:
            return None
        self.api.put(dataclasses.replace(node, fence=sim.boot_id))
        self.fenced.add(sim.name)
        return f"{sim.name} {sim.boot_id}"


def with_domain(vm: VirtualMachine, domain: DomainTemplate) -> VirtualMachine:
    """The VM with another domain in its spec."""
    spec = dataclasses.replace(vm.spec.template.spec, domain=domain)
    template = dataclasses.replace(vm.spec.template, spec=spec)
    meta = dataclasses.replace(vm.metadata, generation=vm.metadata.generation + 1)
    return dataclasses.replace(vm, metadata=meta, spec=dataclasses.replace(vm.spec, template=template))
