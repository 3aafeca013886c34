"""Metrics for Prometheus, served by the process's own event loop: what is read at a scrape is only changed by that loop."""

from collections.abc import Iterable, Iterator
from typing import Annotated

import kopf
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel, ConfigDict, Field, IPvAnyAddress

from kubeferry import __version__
from kubeferry.kube.queue import WorkQueue

PATH = "/metrics"

log = structlog.get_logger(__name__)


class MetricsSettings(BaseModel):
    """Where metrics are served."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: IPvAnyAddress = Field(default="0.0.0.0", validate_default=True)  # noqa: S104 - a scraper comes from elsewhere
    port: Annotated[int, Field(ge=0, le=65535)] = 9808
    """0: any that is free; the log tells which."""


class ProcessCollector(Collector):
    """What every process of kubeferry tells: its version, and how its work queues do."""

    def __init__(self, queues: Iterable[WorkQueue]) -> None:
        self._queues = tuple(queues)

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        build = GaugeMetricFamily("kubeferry_build_info", "1, of the version that runs.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        errors = sum(queue.errors for queue in self._queues)
        yield CounterMetricFamily("kubeferry_reconcile_errors", "Passes that ended with an error and are done again.", value=errors)
        depth = sum(queue.depth for queue in self._queues)
        yield GaugeMetricFamily("kubeferry_work_queue_depth", "Keys that wait for a worker, or are worked on.", value=depth)


class MetricsServer:
    """Serves a registry at /metrics."""

    def __init__(self, settings: MetricsSettings, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._registry = registry
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begin to listen, unless it does: kopf tries a start again that the API server did not answer.

        Raises:
            kopf.PermanentError: it can't; the message names the address.
        """
        if self._runner is not None:
            return
        app = web.Application()
        app.router.add_get(PATH, self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        address, port = str(self._settings.address), self._settings.port
        try:
            await web.TCPSite(runner, address, port).start()
        except OSError as error:
            await runner.cleanup()
            raise kopf.PermanentError(f"metrics can't be served at {address} port {port} (metrics in the configuration): {error}") from None
        self._runner = runner
        log.info("metrics are served", address=address, port=self.port)

    @property
    def port(self) -> int:
        """Where it listens, once it was started."""
        if self._runner is None:
            raise ValueError("the metrics are not served yet")
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
