"""Disk images and instance directories on the host."""
