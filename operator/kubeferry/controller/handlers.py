"""kopf's handlers: they hand on what they are told, and nothing else (why, see the ADR on how kopf is used)."""

from typing import Any

import kopf

from kubeferry.controller.controller import Controller
from kubeferry.controller.store import KINDS
from kubeferry.kube import operator
from kubeferry.kube.client import Stored, endpoint


def register(registry: kopf.OperatorRegistry, controller: Controller) -> None:
    """Connect the controller to kopf."""

    @kopf.on.startup(id="start", registry=registry)
    async def startup(**_: Any) -> None:
        await controller.start()

    @kopf.on.cleanup(id="stop", registry=registry)
    async def cleanup(**_: Any) -> None:
        await controller.stop()

    kopf.on.login(registry=registry)(operator.login)
    for kind in KINDS:
        _watch(registry, controller, kind)


def _watch(registry: kopf.OperatorRegistry, controller: Controller, kind: type[Stored]) -> None:
    served = endpoint(kind)

    @kopf.on.event(served.group, served.version, served.plural, registry=registry)
    async def event(event: kopf.RawEvent, **_: Any) -> None:
        controller.saw(kind, event)
