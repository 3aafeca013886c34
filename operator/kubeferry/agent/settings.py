"""The agent's configuration: one YAML file, checked before anything is done."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from kubeferry.api.computenode import NETWORKS_TOLD
from kubeferry.api.names import SYSTEM_NAMESPACE
from kubeferry.api.network import BridgeName
from kubeferry.kube.telemetry import MetricsSettings

AbsolutePath = Annotated[str, Field(pattern=r"^/")]
Port = Annotated[int, Field(ge=1, le=65535)]
IpAddress = Annotated[str, AfterValidator(lambda text: str(ip_address(text)))]

_CONFIG = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


class AllowList(BaseModel):
    """What VMs may name of this host. Empty at first: a namespaced user must not read a host's files through an agent."""

    model_config = _CONFIG

    host_paths: tuple[AbsolutePath, ...] = ()
    """Directories below which hostPath sources may lie."""
    kernel_paths: tuple[AbsolutePath, ...] = ()
    """Directories below which kernels and initial ramdisks may lie."""
    bridges: Annotated[tuple[BridgeName, ...], Field(max_length=NETWORKS_TOLD)] = ()
    """Bridges that VMs may be plugged into."""


class DataPorts(BaseModel):
    """Where data comes: one port for each copy that begins."""

    model_config = _CONFIG

    first: Port = 8023
    last: Port = 8032

    @property
    def all(self) -> range:
        """Every one of them."""
        return range(self.first, self.last + 1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"dataPorts.last is {self.last}, at least {self.first} (dataPorts.first) was expected")
        return self


class AgentSettings(BaseModel):
    """All that one agent is told."""

    model_config = _CONFIG

    node_name: Annotated[str, Field(min_length=1)]
    """The Kubernetes Node that this host is."""
    namespace: str = SYSTEM_NAMESPACE
    """The operator's namespace, where the Leases are."""
    log_format: Literal["json", "text"] = "json"
    instances_path: Path = Path("/var/lib/kubeferry/instances")
    state_path: Path = Path("/var/lib/kubeferry/state")
    run_path: Path = Path("/run/kubeferry")
    """Gone after a boot: what `bootId` is made in."""
    migration_address: IpAddress
    """Where other nodes' agents reach this host, in the migration network."""
    ssh_port: Port = 8022
    """Port of the sshd beside the agent."""
    data_ports: DataPorts = DataPorts()
    libvirt_uri: Annotated[str, Field(alias="libvirtURI")] = "qemu:///system"
    virtualization_type: Literal["kvm", "qemu"] = "kvm"
    allow: AllowList = AllowList()
    trash_ttl_seconds: Annotated[int, Field(alias="trashTTLSeconds", ge=0)] = 86400
    """For how long a copy that was given up can be brought back by a person, unless a VM that comes needs its room."""
    metrics: MetricsSettings = MetricsSettings()
