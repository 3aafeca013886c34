"""Names that are part of the API: group, labels, finalizers, service accounts."""

GROUP = "kubeferry.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

FINALIZER = f"{GROUP}/protection"
"""Holds a VirtualMachine until its disks are in the trash, and a Placement for as long as a host may hold a copy."""

SYSTEM_NAMESPACE = "kubeferry-system"
CONTROLLER_ACCOUNT = "kubeferry-controller"
AGENT_ACCOUNT = "kubeferry-agent"

PROTOCOL_VERSION = 1
"""Raised when an agent of an older version could misunderstand a task."""
