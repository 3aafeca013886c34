"""One pass for one VM: gather, decide, execute."""

import dataclasses
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from structlog.contextvars import bound_contextvars

from kubeferry.controller.execute import Executor
from kubeferry.controller.gather import Gatherer
from kubeferry.core.observed import Observed, Stranger, VmDecision

Step = Callable[[Observed, datetime, str], VmDecision]
"""`core.vm.step`."""

AT_ONCE = timedelta()

log = structlog.get_logger(__name__)


class Reconciler:
    """The work queue's handler; a key is a VM's uid."""

    def __init__(self, gatherer: Gatherer, step: Step, executor: Executor) -> None:
        self._gatherer = gatherer
        self._step = step
        self._executor = executor

    async def reconcile(self, uid: str) -> timedelta | None:
        """Bring one VM a step further; when to look at it again, whatever happens.

        Raises:
            kubeferry.kube.errors.KubeError: a request failed.
        """
        with bound_contextvars(vm_uid=uid):
            observed = await self._gatherer.gather(uid)
            with bound_contextvars(**_names(observed)):
                if observed.vm is None and observed.placement is not None:
                    log.warning("the VM of a Placement is gone although it was protected: what is there is left as it is")
                return await self._decide(observed)

    async def _decide(self, observed: Observed) -> timedelta | None:
        decision = self._step(observed, datetime.now(UTC), str(uuid.uuid4()))
        met = await self._executor.execute(observed, decision)
        if isinstance(met, Stranger):  # core asks no more for what it stands in the way of, so this comes to an end
            return await self._decide(dataclasses.replace(observed, strangers=(*observed.strangers, met)))
        return AT_ONCE if met else decision.requeue_after


def _names(observed: Observed) -> dict[str, object]:
    """What every log line of the pass tells."""
    names: dict[str, object] = {}
    if observed.vm is not None:
        names["vm"] = f"{observed.vm.metadata.namespace}/{observed.vm.metadata.name}"
    if observed.placement is not None:
        spec = observed.placement.spec
        names |= {"vm": f"{spec.virtual_machine.namespace}/{spec.virtual_machine.name}", "node": spec.node_name, "epoch": spec.epoch}
    return names
