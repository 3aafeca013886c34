"""What a host tells of itself: its ComputeNode, then its Lease."""

import dataclasses
from collections.abc import Generator
from typing import TYPE_CHECKING

from kubeferry.api import reasons
from kubeferry.api.computenode import ComputeNodeStatus, InventoryItem
from kubeferry.api.meta import Condition, Meta, Status
from kubeferry.api.role import Role, RunState
from kubeferry.core.journal import Journal
from simulated.api import Api, Node

if TYPE_CHECKING:
    from simulated.world import World

Steps = Generator[None, None, None]


class Teller:
    """A host, as far as others see it."""

    name: str
    world: "World"
    memory: int
    journals: dict[str, Journal]
    run: set[str]
    api: Api
    host_id: str
    boot_id: str
    reaches_api: bool

    def holds_active(self, uid: str) -> bool:
        return uid in self.journals and self.journals[uid].role == Role.ACTIVE

    def publish(self) -> None:
        """Its ComputeNode, as its journals are now."""
        self._tell_node(self.inventory())

    def inventory(self) -> tuple[InventoryItem, ...]:
        return tuple(
            InventoryItem(
                uid=j.uid,
                state=RunState.RUNNING if j.uid in self.run else RunState.STOPPED,
                role=j.role,
                epoch=j.epoch,
                epoch_id=j.epoch_id,
                allocated=1,
            )
            for j in self.journals.values()
            if j.role != Role.GONE
        )

    def _tell_node(self, inventory: tuple[InventoryItem, ...]) -> None:
        node = self.api.get(Node, self.name)
        ready = Condition(type=reasons.READY, status=Status.TRUE, reason=reasons.AGENT_READY, last_transition_time=self.world.time())
        status = ComputeNodeStatus(
            host_id=self.host_id,
            boot_id=self.boot_id,
            protocol_version=1,
            agent_version="sim",
            memory=self.memory,
            inventory=inventory,
            conditions=(ready,),
        )
        told = Node(Meta(name=self.name), status) if node is None else dataclasses.replace(node, status=status)
        self.api.put(told)

    def renewing(self) -> Steps:
        """Look, tell, and only then renew the Lease."""
        seen = self.inventory()
        yield
        if self.reaches_api:
            self._tell_node(seen)
        yield
        if self.reaches_api:
            self.api.leases[self.name] = self.api.leases.get(self.name, 0) + 1
