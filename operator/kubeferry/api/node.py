"""The part of a Kubernetes Node (core/v1) that the scheduling pass reads."""

import dataclasses
from enum import StrEnum

from kubeferry.api.meta import Meta
from kubeferry.api.model import model


class TaintEffect(StrEnum):
    """What a taint does to what does not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


@model
class Taint:
    """A taint of a node."""

    key: str
    value: str = ""
    effect: TaintEffect


@model
class NodeSpec:
    """What administrators want of a node."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


@model
class NodeCondition:
    """One aspect of a node's state. Not a `metav1.Condition`: a Node's may lack what that requires."""

    type: str
    status: str


@model
class NodeStatus:
    """What the kubelet tells."""

    conditions: tuple[NodeCondition, ...] = ()


@model
class Node:
    """A Kubernetes Node."""

    metadata: Meta
    spec: NodeSpec = dataclasses.field(default_factory=NodeSpec)
    status: NodeStatus = dataclasses.field(default_factory=NodeStatus)
