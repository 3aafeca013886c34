"""The controller's configuration: one YAML file, checked before anything is done."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from kubeferry.api.names import SYSTEM_NAMESPACE


class ControllerSettings(BaseModel):
    """All that the controller is told."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)

    namespace: str = SYSTEM_NAMESPACE
    """The operator's namespace, where the Leases are."""
    log_format: Literal["json", "text"] = "json"
    workers: Annotated[int, Field(ge=1, le=64)] = 4
    """VMs that are worked on at a time."""
