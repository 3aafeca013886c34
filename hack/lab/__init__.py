"""The lab: a real Kubernetes API and real hypervisors on one machine, for `make demo`, `make lab` and the integration tests.

Hosts are Linux namespaces, each with a libvirtd of its own and an sshd beside kubeferry's agent; guests are real Linux systems under
QEMU's TCG.
Everything that a lab starts is in its record (`lab.record`) and is stopped by that record alone.
"""
