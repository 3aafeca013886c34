"""What a HostTask tells its host beyond the verb: all of it comes from the Placement, so a task that is asked again is the same."""

import dataclasses

from kubeferry.api.domain import Domain
from kubeferry.api.placement import Copy, Move, PlacementSpec, Step
from kubeferry.api.task import (
    ActivateParameters,
    CopyParameters,
    CreateParameters,
    DiscardMode,
    DiscardParameters,
    HostTaskSpec,
    PreflightParameters,
    PrepareParameters,
    SealParameters,
    StartParameters,
    StopParameters,
    Verb,
)


def parameters(spec: PlacementSpec, step: Step, bare: HostTaskSpec) -> HostTaskSpec:
    """The task with its verb's block.

    Args:
        spec: the Placement; for verbs of a migration, one that it holds.
        step: the step in its ledger.
        bare: the task without any block.

    Raises:
        ValueError: the Placement does not tell what the verb needs: a defect.
    """
    match step.verb:
        case Verb.CREATE:
            return dataclasses.replace(bare, create=CreateParameters(domain=spec.domain))
        case Verb.START:
            return dataclasses.replace(bare, start=StartParameters(domain=_domain(spec, step)))
        case Verb.STOP:
            return dataclasses.replace(bare, stop=StopParameters(shutdown_timeout_seconds=step.grace_seconds or 0))
        case Verb.DISCARD:
            return dataclasses.replace(bare, discard=_discard(spec, step))
        case Verb.SEAL:
            return dataclasses.replace(bare, seal=SealParameters(shutdown_timeout_seconds=step.grace_seconds or 0))
        case _:
            return _of_move(spec, _move(spec, step), step, bare)


def _move(spec: PlacementSpec, step: Step) -> Move:
    if spec.move is None:
        raise ValueError(f"{step.verb} is of a migration, and the Placement of {spec.virtual_machine.uid} has none")
    return spec.move


def _of_move(spec: PlacementSpec, move: Move, step: Step, bare: HostTaskSpec) -> HostTaskSpec:
    match step.verb:
        case Verb.PREPARE:
            return dataclasses.replace(bare, prepare=PrepareParameters(source=move.source, domain=move.domain, bytes=move.bytes))
        case Verb.PREFLIGHT:
            block = PreflightParameters(target=move.target, target_host_id=copy_on(spec, move.target).host_id)
            return dataclasses.replace(bare, preflight=block)
        case Verb.COPY:
            return dataclasses.replace(bare, copy=CopyParameters(target=move.target, target_host_id=copy_on(spec, move.target).host_id))
        case Verb.ACTIVATE:
            return dataclasses.replace(bare, activate=ActivateParameters(domain=_domain(spec, step), proof=step.proof))
        case _:
            raise ValueError(f"{step.verb} is no verb of a migration")


def copy_on(spec: PlacementSpec, node: str) -> Copy:
    """The copy on a node that the migration names.

    Raises:
        ValueError: there is none, or more than one: a defect.
    """
    (copy,) = (copy for copy in spec.copies if copy.node == node and copy.discard is None)
    return copy


def _domain(spec: PlacementSpec, step: Step) -> Domain:
    """What the VM is to run with on that host."""
    return spec.move.domain if spec.move is not None and step.node == spec.move.target else spec.domain


def _discard(spec: PlacementSpec, step: Step) -> DiscardParameters:
    marked = (copy.discard for copy in spec.copies if copy.host_id == step.host_id and copy.discard is not None)
    return DiscardParameters(mode=next(marked, DiscardMode.TRASH))
