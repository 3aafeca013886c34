"""What a seed may be like: how often each kind of thing happens."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Weights:
    """How often each kind of thing happens, beside the others, and how long it goes on."""

    events: int = 300
    work: int = 60
    deliver: int = 40
    controller: int = 24
    watch: int = 8
    chore: int = 8
    wait: float = 1.0
    user: int = 6
    revive: int = 2
    agent: float = 1.0
    power: float = 0.7
    network: float = 0.6
    process: float = 0.7
    late: float = 2.0
    lost: float = 0.6
    fence: float = 0.0
    backup: float = 0.0
    delete: float = 0.0
    vanish: float = 0.0
    halt: float = 0.0
    resize: float = 0.0
    edit: float = 0.0
    stray: float = 1.0
    plant: float = 0.0
    pause: float = 0.0
    intrigue: float = 0.0
    conspiracy: float = 0.0
    early: float = 0.02
    prologue: str = ""
    burst: tuple[int, ...] = (1, 2, 4, 8, 16, 16)
    reverts: float = 0.5
    terms: float = 0.1
    controllers: int = 1
    self_target: bool = False
    migrations: int = 3
    vms: int = 2
    refusals: float = 0.06
    corruption: float = 0.05
    capacity: tuple[int, ...] = (2, 2, 1)


PROFILES = {
    "plain": Weights(),
    "two": Weights(controllers=2, process=1.0, pause=5, refusals=0.02, agent=0.5, power=0.3, network=0.3),
    "fence": Weights(
        fence=3, power=0.5, intrigue=10, burst=(1, 2, 3, 8), reverts=0.85, refusals=0.0, agent=0.3, network=0.2, corruption=0.0, vms=1
    ),
    "delete": Weights(delete=1.0, power=1.0),
    "delete_fence": Weights(delete=1.0, fence=3, power=1.0, intrigue=6, refusals=0.0, agent=0.3, network=0.2, vms=1),
    "restore": Weights(events=600, backup=0.2, conspiracy=12, refusals=0.0, agent=0.4, network=0.2, power=0.4, corruption=0.0, vms=1),
    "restored": Weights(events=150, prologue="awaiting", reverts=0.3, refusals=0, agent=0.4, power=0.4, vms=1, migrations=1),
    "restored_copy": Weights(
        events=150, prologue="copying", reverts=0.8, refusals=0, agent=0.4, network=0.2, power=0.4, vms=1, migrations=1
    ),
    "early": Weights(early=0.8, reverts=0.2, user=12, chore=20, refusals=0.25, agent=0.5, power=0.3, vms=1),
    "strays": Weights(agent=3, stray=10, work=30, reverts=0.2, refusals=0.0, corruption=0.0, power=0.2, vms=1),
    "self": Weights(self_target=True, refusals=0.15, capacity=(2, 1, 1), migrations=4),
    "storm": Weights(agent=4, power=3, network=3, process=3, lost=3, late=6, controllers=2),
    "terms": Weights(terms=0.7, user=3, controllers=2, early=0.0, refusals=0.02, agent=0.5, power=0.3, network=0.3),
    "vanish": Weights(vanish=1.0, agent=0.4, power=0.4, network=0.3, controllers=2, migrations=4),
    "heirs": Weights(
        vanish=4, terms=0.9, early=0, refusals=0, corruption=0, agent=0.1, power=0, network=0, wait=2, controller=60, work=90, migrations=4
    ),
    "foreign": Weights(plant=30, early=0.5, user=20, wait=6, network=2, vms=1, deliver=20),
    "halts": Weights(halt=2.0, user=8, agent=0.5, power=0.5, network=0.3, controllers=2, migrations=4),
    "halts_delete": Weights(halt=2.0, delete=0.5, early=0.3, power=0.5, controllers=2),
    "resize": Weights(resize=0.7, edit=1.0, halt=1.0, user=8, agent=0.5, power=0.5, network=0.3, controllers=2, migrations=5),
    "calm": Weights(agent=0, power=0, network=0, process=0, late=0, lost=0, wait=0, refusals=0, corruption=0),
}
"""What a seed may be like; seeds take them in turn."""
TURNS = tuple(PROFILES)
