"""All that an agent may ask of another over SSH. Nothing else is understood, and no shell ever reads it."""

MAKE_DIRECTORY = "make-instance-dir"
"""Make a VM's instance directory."""
RECEIVE = "receive"
"""Take a VM's files."""

VOCABULARY = (MAKE_DIRECTORY, RECEIVE)

HELLO_LIMIT = 1024
"""Bytes of the line with which `ssh-serve` tells the agent who asks what, its newline included."""
