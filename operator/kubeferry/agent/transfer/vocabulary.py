"""All that an agent may ask of another over SSH. Nothing else is understood, and no shell ever reads it."""

PROBE = "probe-storage"
"""See whether the two hosts share storage, and have a data port opened."""
MAKE_DIRECTORY = "make-instance-dir"
"""Make a VM's instance directory."""
RECEIVE = "receive"
"""Take a VM's files."""

VOCABULARY = (PROBE, MAKE_DIRECTORY, RECEIVE)

SENDING = "send-copy"
RECEIVING = "receive-copy"
"""The commands of `kubeferry` that move the data, as processes of an agent."""

HELLO_LIMIT = 1024
"""Bytes of the line with which `ssh_serve` tells the agent who asks what, its newline included."""
