"""Agents meet here: keys, sshd, and the stream that carries disks from one host to another."""
