"""bfloat16 weights in twelve bits each, losing nothing: the exponents of trained weights differ little.

The high entropy of sign and mantissa is kept as it is; the exponent, of whose 256 values a few neighbouring ones take
nearly all, becomes four bits (DFloat11, arXiv:2504.11651, codes it in three on average, of varying length).
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from triptych.kernels.compact_blocks import RUN, packed, unpacked
from triptych.kernels.weights import DenseWeight, Weight

FAR: Final = 15
"""The code of a weight whose exponent is not one of the fifteen from its base down: it is 0, or in the table."""
_INPUTS: Final = 16
"""Of which inputs are a multiple, so that a run has whole blocks."""
_AT_ONCE: Final = 1 << 20
"""Weights that are looked at together, in some twenty bytes each."""
_ROOM: Final = 512
"""A table has room for one exception in so many weights: three times what trained weights have at most."""
_LEAST_ROOM: Final = 4
"""And for some, because a small weight may have more than its share."""


@dataclass(frozen=True, slots=True, eq=False)
class CompactWeight:
    """weight[o, i] has the sign and mantissa of its byte, and the exponent bases[o // 16] − its code.

    Where the code is 15 the exponent is 0, unless the table has the weight's bits.

    Attributes:
        values: [O/16, 24 · I] uint8, for each run of 16 · I weights, in blocks (`compact_blocks`), a byte each (sign
            above seven bits of mantissa) and a code of four bits.
        table: int32: bases [R], begins [R + 1], pairs [C, 2] with R = O/16: exceptions begins[r] to begins[r + 1] are
            of run r, each its place in it and its 16 bits.
        inputs: I.
    """

    values: Tensor
    table: Tensor
    inputs: int

    def __post_init__(self) -> None:
        run, length = RUN * self.inputs * 3 // 2, table_length(self.outputs, self.inputs)
        if self.inputs % _INPUTS or self.values.shape[1:] != (run,) or self.values.dtype is not torch.uint8:
            raise ValueError(
                f"values must be uint8 [O/{RUN}, {run}] for {self.inputs} inputs, a multiple of {_INPUTS}, "
                f"got {self.values.dtype} {list(self.values.shape)}"
            )
        if self.table.dtype is not torch.int32 or self.table.shape != (length,):
            raise ValueError(f"the table must be int32 [{length}], got {self.table.dtype} {list(self.table.shape)}")

    @property
    def outputs(self) -> int:
        """O."""
        return RUN * self.values.shape[0]


ExpertWeight = Weight | CompactWeight
"""What experts come in, besides the forms of all projections."""


def table_length(outputs: int, inputs: int) -> int:
    """Of the table of a weight [O, I]."""
    return 2 * (outputs // RUN) + 1 + 2 * _room(outputs, inputs)


def compact_bytes(outputs: int, inputs: int) -> int:
    """Of a weight [O, I] in memory, each of its tensors with room to be aligned."""
    return sum(-(-nbytes // 64) * 64 for nbytes in (outputs * inputs * 3 // 2, 4 * table_length(outputs, inputs)))


def compactable(weight: ExpertWeight) -> bool:
    """Whether `compacted` takes it: plain bfloat16 in whole runs and blocks."""
    if not isinstance(weight, DenseWeight) or weight.values.dtype is not torch.bfloat16:
        return False
    return weight.values.numel() > 0 and weight.outputs % RUN == 0 and weight.inputs % _INPUTS == 0


def empty_like(weight: ExpertWeight) -> CompactWeight:
    """What `compacted` makes of one of this shape, but for the contents."""
    outputs, inputs = weight.outputs, weight.inputs
    values = torch.empty(outputs // RUN, RUN * inputs * 3 // 2, dtype=torch.uint8)
    return CompactWeight(values, torch.empty(table_length(outputs, inputs), dtype=torch.int32), inputs)


def compacted(weight: DenseWeight) -> CompactWeight | None:
    """The same weight in three quarters of the memory; None where too many exponents are far from their neighbours'.

    Args:
        weight: `compactable`.
    """
    outputs, inputs = weight.values.shape
    room, runs = _room(outputs, inputs), weight.values.contiguous().view(torch.int16).view(-1, RUN * inputs)
    compact, begins, exceptions = empty_like(weight), [0], list[Tensor]()
    for first in range(0, len(runs), step := max(1, _AT_ONCE // (RUN * inputs))):
        bits = runs[first : first + step].to(torch.int32) & 0xFFFF
        bases, codes, far = _coded(bits >> 7 & 0xFF, inputs)
        signed_mantissas = (bits >> 8 & 0x80 | bits & 0x7F).to(torch.uint8)
        compact.values[first : first + step] = packed(signed_mantissas, codes, inputs)
        compact.table[first : first + len(bits)] = bases
        run, place = far.nonzero(as_tuple=True)
        begins += (begins[-1] + far.sum(1).cumsum(0)).tolist()
        exceptions.append(torch.stack([place, bits[run, place]], 1).to(torch.int32))
        if begins[-1] > room:
            return None
    rest = compact.table[len(runs) :].zero_()
    rest[: len(begins)] = torch.tensor(begins)
    rest[len(begins) :][: 2 * begins[-1]] = torch.cat(exceptions).flatten()
    return compact


def expanded(weight: CompactWeight) -> Tensor:
    """What it was made of, [O, I] bfloat16; something, where its tensors are not what `compacted` made."""
    runs, elements = len(weight.values), RUN * weight.inputs
    table = weight.table.long()
    bases, begins, pairs = table[:runs], table[runs : 2 * runs + 1], table[2 * runs + 1 :].view(-1, 2)
    signed_mantissas, codes = (part.to(torch.int32) for part in unpacked(weight.values, weight.inputs))
    exponents = torch.where(codes == FAR, 0, bases[:, None] - codes).to(torch.int32)
    bits = (signed_mantissas & 0x80) << 8 | signed_mantissas & 0x7F | exponents << 7
    counts = begins.clamp(0, len(pairs)).diff().clamp_(min=0)
    run = torch.arange(runs, device=bits.device).repeat_interleave(counts)[: len(pairs)]
    place, found = pairs[: len(run)].unbind(1)
    bits[run, place.clamp(0, elements - 1)] = found.to(torch.int32)
    return bits.to(torch.int16).view(torch.bfloat16).view(-1, weight.inputs)


def plain(weight: ExpertWeight) -> Weight:
    """In a form of all projections: as it is, but for a compact one."""
    return DenseWeight(expanded(weight)) if isinstance(weight, CompactWeight) else weight


def _coded(exponents: Tensor, inputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of runs [n, 16 · I]: bases [n], codes uint8, and whose bits go into the table."""
    bases = exponents.amax(1)
    below = bases[:, None] - exponents
    far = _far(below, exponents)
    for run in (far.sum(1) > _room(RUN, inputs)).nonzero().flatten().tolist():  # one much larger than all others
        bases[run] = _most_frequent(exponents[run])
        below[run] = bases[run] - exponents[run]
        far[run] = _far(below[run], exponents[run])
    return bases, torch.where(far, FAR, below.clamp_(0, FAR)).to(torch.uint8), far


def _far(below: Tensor, exponents: Tensor) -> Tensor:
    return ((below < 0) | (below >= FAR)) & (exponents > 0)


def _most_frequent(exponents: Tensor) -> int:
    """The end of the fifteen neighbouring exponents that most have."""
    sums = torch.bincount(exponents[exponents > 0], minlength=256).cumsum(0)
    return int((sums - torch.cat([sums.new_zeros(FAR), sums[:-FAR]])).argmax())


def _room(outputs: int, inputs: int) -> int:
    return _LEAST_ROOM + outputs * inputs // _ROOM
