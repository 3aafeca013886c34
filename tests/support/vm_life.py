"""One VM's API objects as the executor keeps them, so that a test steps through the VM's life."""

import dataclasses

from builders import after, decided, host, observed, placement, task, vm

from kubeferry.api.meta import Status, condition
from kubeferry.api.placement import Placement
from kubeferry.api.task import HostTask, HostTaskStatus
from kubeferry.api.virtualmachine import RunStrategy
from kubeferry.core.observed import Host, VmDecision


class Cluster:
    """Plays one VM's API objects: stores what a decision writes, as the executor does."""

    def __init__(self, node: Host | None = None) -> None:
        self.vm = vm()
        self.placement: Placement | None = None
        self.tasks: dict[str, HostTask] = {}
        self.host = node or host()

    def step(self, seconds: float = 0) -> VmDecision:
        """Steps, and writes what was decided, until nothing but a status is left."""
        for _ in range(20):
            seen = observed(vm=self.vm, placement=self.placement, tasks=tuple(self.tasks.values()), hosts=(self.host,))
            decision = decided(seen, after(seconds))
            if decision.placement is not None:
                self.placement = placement(decision.placement.spec)
            for new in decision.tasks:
                assert new.name not in self.tasks
                self.tasks[new.name] = task(new)
            for name in decision.forget:
                del self.tasks[name]
            if decision.placement is None and not decision.tasks and not decision.forget:
                if decision.status is not None:
                    self.vm = dataclasses.replace(self.vm, status=decision.status)
                return decision
        raise AssertionError("it never comes to rest")

    def answer(self, status: HostTaskStatus) -> HostTask:
        """The host answers the one task there is."""
        (only,) = self.tasks.values()
        self.tasks[only.metadata.name] = dataclasses.replace(only, status=status)
        return only

    def want(self, strategy: RunStrategy) -> None:
        """The VM's owner sets its run strategy."""
        meta = dataclasses.replace(self.vm.metadata, generation=self.vm.metadata.generation + 1)
        self.vm = dataclasses.replace(self.vm, metadata=meta, spec=dataclasses.replace(self.vm.spec, run_strategy=strategy))

    def condition(self, kind: str) -> tuple[Status, str]:
        assert self.vm.status is not None
        told = condition(self.vm.status.conditions, kind)
        assert told is not None
        return told.status, told.reason
