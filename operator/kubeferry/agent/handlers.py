"""kopf's handlers of an agent: they hand on what they are told, and nothing else."""

from typing import Any

import kopf

from kubeferry.agent.agent import Agent
from kubeferry.api.names import GROUP, VERSION
from kubeferry.kube import operator


def register(registry: kopf.OperatorRegistry, agent: Agent) -> None:
    """Connect the agent to kopf."""

    @kopf.on.startup(registry=registry)
    async def startup(**_: Any) -> None:
        await agent.start()

    @kopf.on.cleanup(registry=registry)
    async def cleanup(**_: Any) -> None:
        await agent.stop()

    @kopf.on.event(GROUP, VERSION, "hosttasks", registry=registry)
    async def event(event: kopf.RawEvent, **_: Any) -> None:
        agent.saw_task(event)

    kopf.on.login(registry=registry)(operator.login)
