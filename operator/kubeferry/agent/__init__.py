"""The agent of one hypervisor: executes the HostTasks of its node and tells its ComputeNode."""
