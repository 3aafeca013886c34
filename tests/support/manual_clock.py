"""A clock that goes only when it is told to."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class ManualAlarm:
    due: float
    callback: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualClock:
    """A `kube.queue.Clock`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.alarms: list[ManualAlarm] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], /) -> ManualAlarm:
        self.alarms.append(alarm := ManualAlarm(when, callback))
        return alarm

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [alarm for alarm in self.alarms if alarm.due <= self.now and not alarm.cancelled]
        self.alarms = [alarm for alarm in self.alarms if alarm.due > self.now and not alarm.cancelled]
        for alarm in sorted(due, key=lambda alarm: alarm.due):
            alarm.callback()

    def waits(self) -> list[float]:
        """Seconds until each alarm rings."""
        return sorted(alarm.due - self.now for alarm in self.alarms if not alarm.cancelled)
