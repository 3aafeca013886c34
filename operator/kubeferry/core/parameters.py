"""What a HostTask tells its host beyond the verb: all of it comes from the Placement, so a task that is asked again is the same."""

import dataclasses

from kubeferry.api.domain import Domain
from kubeferry.api.placement import Copy, Direction, Move, PlacementSpec, Step, StepState
from kubeferry.api.task import (
    ActivateParameters,
    CopyParameters,
    CreateParameters,
    DiscardParameters,
    HostTaskSpec,
    PreflightParameters,
    PrepareParameters,
    Proof,
    ProofKind,
    SealParameters,
    StartParameters,
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
            return dataclasses.replace(bare, start=StartParameters(domain=spec.domain))
        case Verb.DISCARD:
            return dataclasses.replace(bare, discard=_discard(spec, step))
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
        case Verb.SEAL:
            return dataclasses.replace(bare, seal=SealParameters(shutdown_timeout_seconds=move.shutdown_timeout_seconds))
        case Verb.COPY:
            return dataclasses.replace(bare, copy=CopyParameters(target=move.target, target_host_id=copy_on(spec, move.target).host_id))
        case Verb.ACTIVATE:
            return dataclasses.replace(bare, activate=ActivateParameters(domain=_domain(spec, move, step), proof=_proof(spec, move)))
        case _:
            raise ValueError(f"{step.verb} is no verb of a migration")


def copy_on(spec: PlacementSpec, node: str) -> Copy:
    """The copy on a node that the migration names.

    Raises:
        ValueError: there is none, or more than one: a defect.
    """
    (copy,) = (copy for copy in spec.copies if copy.node == node and copy.discard is None)
    return copy


def _domain(spec: PlacementSpec, move: Move, step: Step) -> Domain:
    return move.domain if step.node == move.target else spec.domain


def _proof(spec: PlacementSpec, move: Move) -> Proof | None:
    """What the host that had the right to start the VM before has acknowledged at this epoch."""
    verb, kind = (Verb.COPY, ProofKind.RELEASED) if move.direction == Direction.FORWARD else (Verb.SEAL, ProofKind.SEALED)
    done = (s for s in spec.steps if s.verb == verb and s.epoch == spec.epoch and s.state == StepState.SUCCEEDED)
    step = max(done, key=lambda s: s.seq, default=None)
    return None if step is None else Proof(kind=kind, node=step.node, host_id=step.host_id, epoch=step.epoch, seq=step.seq)


def _discard(spec: PlacementSpec, step: Step) -> DiscardParameters:
    mode = next((copy.discard for copy in spec.copies if copy.host_id == step.host_id and copy.discard is not None), None)
    if mode is None:
        raise ValueError(f"the copy on host {step.host_id} is not to be discarded")
    return DiscardParameters(mode=mode)
