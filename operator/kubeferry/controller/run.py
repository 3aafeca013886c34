"""Runs the controller until it is told to stop."""

import asyncio

import kopf

from kubeferry.controller.controller import Controller
from kubeferry.controller.handlers import register
from kubeferry.controller.settings import ControllerSettings
from kubeferry.kube.operator import configure
from kubeferry.kube.rest import RestServer


def run_controller(settings: ControllerSettings) -> None:
    """Run the controller until SIGTERM or SIGINT.

    Raises:
        kopf.ActivityError: it could not start; the message of its cause says why.
    """
    asyncio.run(_run(settings))


async def _run(settings: ControllerSettings) -> None:
    server = await RestServer.connect()
    try:
        registry = kopf.OperatorRegistry()
        register(registry, Controller(server, settings, asyncio.get_running_loop()))
        kopf_settings = kopf.OperatorSettings()
        configure(kopf_settings)
        await kopf.operator(registry=registry, settings=kopf_settings, clusterwide=True)
    finally:
        await server.close()
