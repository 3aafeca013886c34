"""The scheduling pass, as administrators configure it."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from kubeferry.api.model import Bytes
from kubeferry.scheduling.allocation import WHOLE, Allocation, Allocations
from kubeferry.scheduling.registry import FILTER_NAMES, Profile, profile

_CONFIG = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)

# Not a float: what is written is what counts.
Ratio = Annotated[Decimal, Field(gt=0, le=1000, decimal_places=3)]
Multiplier = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


class AllocationRatios(BaseModel):
    """How often what a node has is given out (Nova's `cpu_allocation_ratio`, and so on): what a guest can fill, once."""

    model_config = _CONFIG

    cpu: Ratio = Decimal(4)
    memory: Ratio = Decimal(1)
    disk: Ratio = Decimal(1)


class Reserved(BaseModel):
    """What every node keeps for itself (Nova's `reserved_host_cpus`, and so on); taken off before the ratio counts."""

    model_config = _CONFIG

    cpu: Annotated[int, Field(ge=0)] = 0
    """CPUs."""
    memory: Bytes = 0
    disk: Bytes = 0


class SchedulerSettings(BaseModel):
    """What a scheduling pass runs."""

    model_config = _CONFIG

    filters: tuple[str, ...] = FILTER_NAMES
    """Those that are asked; their order is always the registry's."""
    weighers: Mapping[str, Multiplier] = {}
    """Multipliers by name; 1 of those that are not named, and 0 takes one out."""
    allocation_ratios: AllocationRatios = AllocationRatios()
    reserved: Reserved = Reserved()

    @model_validator(mode="after")
    def _known(self) -> Self:
        self.profile()
        return self

    def profile(self) -> Profile:
        """The profile that is configured.

        Raises:
            ValueError: there is no filter or weigher of a name; never once it was validated.
        """
        ratios, reserved = self.allocation_ratios, self.reserved
        allocations = Allocations(
            cpu=Allocation(int(ratios.cpu * WHOLE), reserved.cpu),
            memory=Allocation(int(ratios.memory * WHOLE), reserved.memory),
            disk=Allocation(int(ratios.disk * WHOLE), reserved.disk),
        )
        return profile(self.filters, self.weighers, allocations)
