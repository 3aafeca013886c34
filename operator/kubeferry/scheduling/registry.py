"""Which filters and weighers a pass runs, written down: no directory is scanned."""

from kubeferry.scheduling.filters import Filter, Ready, Retry, Schedulable, SourceNode, StaleCopy, TargetNode
from kubeferry.scheduling.weighers import Ram, Weigher

FILTERS: tuple[Filter, ...] = (Ready(), Schedulable(), TargetNode(), Retry(), StaleCopy(), SourceNode())
"""In this order: a node is told of with the reason of the first that rejects it."""
WEIGHERS: tuple[Weigher, ...] = (Ram(),)
