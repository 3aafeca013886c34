"""The only importer of the Kubernetes client: typed reads, compare-and-swap writes, and what both shells need of kopf."""
