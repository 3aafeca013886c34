"""The only importer of libvirt: domain XML, power, and what the hypervisor offers."""
