"""Runs an agent until it is told to stop, or libvirt hangs."""

import asyncio
import os

import kopf
import structlog

from kubeferry.agent.agent import Agent
from kubeferry.agent.handlers import register
from kubeferry.agent.identity import HostLock, boot_id, host_id, require_instances_path
from kubeferry.agent.machine import Machine
from kubeferry.agent.settings import AgentSettings
from kubeferry.agent.virt.libvirt_port import LibvirtHypervisor
from kubeferry.kube.errors import KubeError
from kubeferry.kube.operator import configure, watch_tasks_of
from kubeferry.kube.rest import RestServer

HUNG_EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h: something underneath is broken; whoever restarts the agent may find it mended."""

log = structlog.get_logger(__name__)


def run_agent(settings: AgentSettings) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Raises:
        kubeferry.agent.identity.IdentityError: the state can't be used, or another agent holds the host's lock.
        kopf.ActivityError: it could not start; the message of its cause says why.
    """
    require_instances_path(settings.instances_path)
    with HostLock(settings.state_path):
        host = host_id(settings.state_path, settings.instances_path)
        machine = Machine(settings=settings, host_id=host, boot_id=boot_id(settings.run_path))
        asyncio.run(_run(machine))


async def _run(machine: Machine) -> None:
    settings = machine.settings
    server = await RestServer.connect()
    port = LibvirtHypervisor(settings.libvirt_uri, settings.virtualization_type)
    agent = Agent(machine, server, port, asyncio.get_running_loop())
    watchdog = asyncio.create_task(_end_when_hung(agent), name="watchdog")
    try:
        registry = kopf.OperatorRegistry()
        register(registry, agent)
        kopf_settings = kopf.OperatorSettings()
        configure(kopf_settings)
        watch_tasks_of(kopf_settings, settings.node_name)
        await kopf.operator(registry=registry, settings=kopf_settings, clusterwide=True)
    finally:
        watchdog.cancel()
        await server.close()
    port.close()


async def _end_when_hung(agent: Agent) -> None:
    """End the process when a call to libvirt does not return: its thread can't be ended, and would be waited for at exit."""
    await agent.hypervisor.hung.wait()
    try:
        await agent.publisher.publish()  # Ready=False/HypervisorHung
    except KubeError as error:
        log.error("the ComputeNode could not be told", error=str(error))
    log.critical("libvirt hangs, the agent ends")
    os._exit(HUNG_EXIT_CODE)
