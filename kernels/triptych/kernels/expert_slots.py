"""Experts that live in slots of memory, where others may take their place."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from triptych.kernels.compact import CompactWeight, ExpertWeight
from triptych.kernels.weights import DenseWeight, GgufWeight, Int8Weight

WAITED_PLACES = 64
"""Threads that count the time that they wait for experts, each in a place of its own."""


@dataclass(slots=True, eq=False)
class Waves:
    """Experts of a layer that take turns in its slots, in ascending order, where not all have one at once.

    Attributes:
        window: Where [2] int32 are: the first expert of the wave that is there, or comes, and the first after it.
        enter: To be called before each wave but the first, once everybody has computed with the one before.
        count: Of the demand that was made last: so many waves at most, of which the last may be empty.
    """

    window: int
    enter: Callable[[int], None]
    count: int = 1

    @property
    def after(self) -> int:
        """The first expert after the wave that is there, or comes."""
        return (ctypes.c_int32 * 2).from_address(self.window)[1]


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Which experts are in their slots; the kernels wait for the others (native/src/arrivals.h).

    Attributes:
        flags: [E] int32: 1 gate and up are there, 2 down is, 4 the expert has a slot, 8 somebody waits; above these
            how often it has been given one.
        waited: [64] int64, nanoseconds that threads have waited, since somebody set them to 0.
        waves: None where all experts that are asked for have slots at once.
    """

    flags: Tensor
    waited: Tensor
    waves: Waves | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SlotProjection:
    """One projection of every expert of a layer, wherever it is at present.

    Attributes:
        pool: [N, B] uint8, the slots.
        view: The weight and the bias in a slot [B].
        addresses: [3, E] int64, as of an `ExpertProjection`: rewritten in place when an expert gets a slot. An expert
            that has none has those of slot 0.
        template: What is in slot 0: form and shape of all of them.
        template_bias: Its bias.
    """

    pool: Tensor
    view: Callable[[Tensor], tuple[ExpertWeight, Tensor | None]]
    addresses: Tensor
    template: ExpertWeight = field(init=False)
    template_bias: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        weight, bias = self.view(self.pool[0])
        object.__setattr__(self, "template", weight)
        object.__setattr__(self, "template_bias", bias)
        parts = (*arrays(weight), bias)
        rows = [0 if part is None else part.data_ptr() for part in parts]
        self.addresses[:] = torch.tensor(rows)[:, None]

    @property
    def experts(self) -> int:
        """E."""
        return self.addresses.shape[1]

    @property
    def outputs(self) -> int:
        """O."""
        return self.template.outputs

    @property
    def inputs(self) -> int:
        """I."""
        return self.template.inputs

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the addresses lie in."""
        return (self.pool,)

    def weight(self, expert: int) -> ExpertWeight:
        """[O, I], in the slot that it is in."""
        return self.view(self._slot(expert))[0]

    def bias(self, expert: int) -> Tensor | None:
        """[O] or None."""
        return self.view(self._slot(expert))[1]

    def _slot(self, expert: int) -> Tensor:
        return self.pool[(int(self.addresses[0, expert]) - self.pool.data_ptr()) // self.pool.shape[1]]


def arrays(weight: ExpertWeight) -> tuple[Tensor, Tensor | None]:
    """The values of a weight and its scales, or its table: what the rows 0 and 1 of a table are addresses of."""
    match weight:
        case DenseWeight(values):
            return values, None
        case Int8Weight(values, scales):
            return values, scales
        case GgufWeight(blocks):
            return blocks, None
        case CompactWeight(values, table):
            return values, table
