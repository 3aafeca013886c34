"""kubeferry: cold migration of virtual machines between Kubernetes nodes, with Confirm and Revert."""

__version__ = "0.1.0.dev0"
