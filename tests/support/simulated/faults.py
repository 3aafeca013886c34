"""What goes wrong by chance."""

from kubeferry.api.task import HostTask
from simulated.base import NAMES, Base


class Faults(Base):
    """Each says what happened; None: nothing."""

    def _agent_dies(self) -> str | None:
        sim = self.hosts[self.rng.choice(NAMES)]
        if not sim.alive:
            return None
        sim.die()
        return sim.name

    def _agent_starts(self) -> str | None:
        dead = [sim for sim in self.hosts.values() if sim.up and not sim.alive]
        if not dead:
            return None
        sim = self.rng.choice(dead)
        sim.begin()
        return sim.name

    def _power(self) -> str | None:
        sim = self.hosts[self.rng.choice(NAMES)]
        if not sim.up:
            return None
        sim.lose_power()
        return f"{sim.name} lost"

    def _power_on(self) -> str | None:
        down = [sim for sim in self.hosts.values() if not sim.up and not (self.restored and sim.name in self.fenced)]
        if not down:
            return None
        sim = self.rng.choice(down)
        sim.power_on()
        return sim.name

    def _network(self) -> str:
        sim = next((sim for sim in self.hosts.values() if sim.cut_off), self.hosts[self.rng.choice(NAMES)])
        sim.cut_off = not sim.cut_off and not any(other.cut_off for other in self.hosts.values())
        return f"{sim.name} {'cut off' if sim.cut_off else 'connected'}"

    def _pause(self) -> str:
        """One of the controllers sleeps in mid-pass; what it is about to write gets old."""
        self.paused = self.rng.choice((*self.controllers, None))
        return str(self.paused and self.controllers.index(self.paused))

    def _controller_dies(self) -> str:
        controller = self.rng.choice(self.controllers)
        controller.restart()
        return str(self.controllers.index(controller))

    def _late_task(self) -> str | None:
        if not self.api.tasks_ever:
            return None
        task: HostTask = self.rng.choice(self.api.tasks_ever)
        sim = self.hosts[task.spec.node]
        if not (sim.up and sim.alive):
            return None
        sim.deliver(task)
        return f"{sim.name} {task.spec.verb} {task.metadata.name} epoch {task.spec.epoch}"

    def _lost(self) -> str:
        watchers = [c.view for c in self.controllers] + [sim.view for sim in self.hosts.values()]
        view = self.rng.choice(watchers)
        if self.rng.random() < 0.5:
            view.lose()
            return "an event"
        view.relist()
        return "a watch, and listed anew"

    def _stray(self) -> str | None:
        sims = [sim for sim in self.hosts.values() if sim.up and sim.strays]
        if not sims:
            return None
        sim = self.rng.choice(sims)
        sim.stray_write()
        return sim.name
