"""The controller's configuration: one YAML file, checked before anything is done."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from kubeferry.api.names import SYSTEM_NAMESPACE
from kubeferry.controller.scheduler_settings import SchedulerSettings
from kubeferry.core.limits import Limits
from kubeferry.kube.telemetry import MetricsSettings

Seconds = Annotated[int, Field(ge=1, le=86400)]


class Timeouts(BaseModel):
    """Seconds that a host gets on the way forward; see `core.limits.Limits` for what follows."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)

    prepare_seconds: Seconds = 30
    preflight_seconds: Seconds = 60
    seal_seconds: Seconds = 60
    """After the time that the guest gets to shut down."""
    copy_silence_seconds: Seconds = 60
    """Without a byte, and without a sign of life."""
    activate_seconds: Seconds = 60


class ControllerSettings(BaseModel):
    """All that the controller is told."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)

    namespace: str = SYSTEM_NAMESPACE
    """The operator's namespace, where the Leases are."""
    log_format: Literal["json", "text"] = "json"
    workers: Annotated[int, Field(ge=1, le=64)] = 4
    """VMs that are worked on at a time."""
    scheduler: SchedulerSettings = SchedulerSettings()
    max_attempts: Annotated[int, Field(ge=1, le=16)] = 3
    """Targets that a Migration tries in all (Nova's scheduler max_attempts)."""
    timeouts: Timeouts = Timeouts()
    metrics: MetricsSettings = MetricsSettings()

    def limits(self) -> Limits:
        """How long is waited for a host, and how often something is tried, as `core` takes it."""
        return Limits(
            prepare=timedelta(seconds=self.timeouts.prepare_seconds),
            preflight=timedelta(seconds=self.timeouts.preflight_seconds),
            seal=timedelta(seconds=self.timeouts.seal_seconds),
            copy_silence=timedelta(seconds=self.timeouts.copy_silence_seconds),
            activate=timedelta(seconds=self.timeouts.activate_seconds),
            max_attempts=self.max_attempts,
        )
