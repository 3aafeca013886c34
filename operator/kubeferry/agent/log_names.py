"""What the log lines of a VM tell once its Placement was read."""

from structlog.contextvars import bind_contextvars, unbind_contextvars

from kubeferry.api.placement import PlacementSpec


def bind_names(placement: PlacementSpec) -> None:
    """From here on each line names the VM, and the Migration that holds it."""
    vm, lock = placement.virtual_machine, placement.lock
    bind_contextvars(vm=f"{vm.namespace}/{vm.name}")
    if lock is not None:
        bind_contextvars(migration=f"{lock.namespace}/{lock.name}")


def unbind_names() -> None:
    """What comes next is of something else."""
    unbind_contextvars("vm", "migration")
