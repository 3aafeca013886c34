"""How long is waited for a host, and how often something is tried: each limit has an exit of its own."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Limits:
    """What an administrator may set; the defaults are the design's."""

    prepare: timedelta = timedelta(seconds=30)
    """For Prepare; then the attempt is given up, and the next target is taken."""
    preflight: timedelta = timedelta(seconds=60)
    """For Preflight; the same exit."""
    seal: timedelta = timedelta(seconds=60)
    """For the Seal of the source, after the time that the guest gets; then the VM goes back."""
    copy_silence: timedelta = timedelta(seconds=60)
    """For a Copy without a byte and without a sign of life; then the VM goes back."""
    activate: timedelta = timedelta(seconds=60)
    """For the Activate of the target; then the VM goes back, by way of the Seal of the target."""
    copy_tries: int = 3
    """Copies that are begun in all; then the VM goes back."""
    max_attempts: int = 3
    """Targets that are tried in all (Nova's scheduler max_attempts); then the Migration has failed."""


LIMITS = Limits()
"""The defaults."""
