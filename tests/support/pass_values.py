"""Values for tests of the scheduling pass: a node that every filter takes, and what is asked."""

from kubeferry.api.domain import Architecture
from kubeferry.core.observed import Place
from kubeferry.scheduling.snapshot import Candidate, Request, Supply

CANDIDATE = Candidate(
    name="b",
    node_ready=True,
    lease_fresh=True,
    hypervisor_ready=True,
    unschedulable=False,
    taints=(),
    labels={},
    architecture=Architecture.AMD64,
    machine_types=frozenset({"q35", "pc-q35-7.2"}),
    bridges=frozenset({"br0", "br1"}),
    networks=frozenset({"default"}),
    processors=100,
    cpu=Supply(total=100, held=0),
    memory=Supply(total=100, held=0),
    disk=Supply(total=100, held=0),
    holders=(),
)
REQUEST = Request(
    vm_uid="vm-1",
    source="a",
    target=None,
    attempted=frozenset(),
    holders=frozenset(),
    labels=frozenset(),
    architecture=Architecture.AMD64,
    machine_type="pc-q35-7.2",
    bridges=frozenset(),
    networks=frozenset(),
    cpus=1,
    memory=10,
    bytes=10,
)
PLACE = Place(
    migration_uid="move-1",
    vm_uid="vm-1",
    source="a",
    target=None,
    attempted=frozenset(),
    holders=frozenset(),
    labels=frozenset(),
    architecture=Architecture.AMD64,
    machine_type="pc-q35-7.2",
    bridges=frozenset(),
    networks=frozenset(),
    memory=1 << 30,
    cpus=1,
    bytes=1 << 30,
)
"""What core asks of it."""
