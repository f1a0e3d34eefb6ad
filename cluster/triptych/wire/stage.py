"""Stages, and their wire form."""

from typing import Final

from triptych.core.fleet import Stage
from triptych.stage.v1 import stage_pb2 as pb

_TO_PROTO: Final = {
    Stage.ENCODE: pb.STAGE_ENCODE,
    Stage.PREFILL: pb.STAGE_PREFILL,
    Stage.DECODE: pb.STAGE_DECODE,
}
_FROM_PROTO: Final = {value: stage for stage, value in _TO_PROTO.items()}


def stage_to_proto(stage: Stage) -> pb.Stage.ValueType:
    """The enum value."""
    return _TO_PROTO[stage]


def stage_from_proto(value: pb.Stage.ValueType) -> Stage | None:
    """The stage; None for a value that this version does not know."""
    return _FROM_PROTO.get(value)
