"""The tables of angles that the layers of a decoder share."""

from dataclasses import dataclass
from typing import assert_never

from triptych.models.parameters import Parameters
from triptych.models.rotary import RotaryTable, rotary_table
from triptych.models.spec import AttentionSpec, DecoderSpec, LatentAttentionSpec, RopeSpec

_Turned = tuple[RopeSpec | None, int]


@dataclass(frozen=True, slots=True)
class RotaryTables:
    """One for each kind of rotation in a model."""

    _tables: dict[_Turned, RotaryTable]

    @classmethod
    def of(cls, spec: DecoderSpec, positions: int, parameters: Parameters) -> "RotaryTables":
        """Tabulates positions 0 … `positions` − 1."""
        wanted = {_turned(layer.attention) for layer in spec.layers}
        device, interleaved = parameters.device, parameters.interleaved
        return cls({key: rotary_table(*key, positions, device, interleaved=interleaved) for key in wanted})

    def for_layer(self, attention: AttentionSpec | LatentAttentionSpec) -> RotaryTable:
        """That of a layer."""
        return self._tables[_turned(attention)]


def _turned(attention: AttentionSpec | LatentAttentionSpec) -> _Turned:
    """What a table of angles depends on."""
    match attention:
        case AttentionSpec(rope=rope, head_dim=head_dim):
            return rope, head_dim
        case LatentAttentionSpec(rope=rope):
            return rope, rope.dimensions
        case _:
            assert_never(attention)
