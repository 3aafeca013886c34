"""Who this host is, and where its things lie."""

from dataclasses import dataclass
from pathlib import Path

from kubeferry.agent.settings import AgentSettings
from kubeferry.api.computenode import SshEndpoint


@dataclass(frozen=True, slots=True)
class Machine:
    """This host, for one life of the agent."""

    settings: AgentSettings
    host_id: str
    """Made once beside the journals: another id is another host."""
    boot_id: str
    """Made anew at each boot."""
    ssh: SshEndpoint | None = None
    """How agents of other nodes reach this one; None: they can't."""

    @property
    def node(self) -> str:
        """Name of the Kubernetes Node."""
        return self.settings.node_name

    def instance(self, uid: str) -> Path:
        """The VM's instance directory."""
        return self.settings.instances_path / uid
