"""Where the parts of a divided model meet: blocks, whole-projection norms, embedding and head."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.kernels import Weight, embedding, linear_argmax
from triptych.models.mixer import Mixer
from triptych.models.sharding.intervals import Interval
from triptych.models.step import StepInput
from triptych.models.workspace import Activations
from triptych.parallel import Group


@dataclass(frozen=True, slots=True)
class Reduced:
    """A mixer of which every rank has a part, so that what it leaves are partial sums.

    Attributes:
        mixer: This rank's part.
        group: The ranks.
    """

    mixer: Mixer
    group: Group

    def __call__(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """From `acts.normed` to `acts.delta`, the same on all ranks."""
        self.mixer(step, acts, kv)
        self.group.all_reduce(acts.delta)


def reduced(mixer: Mixer, group: Group) -> Mixer:
    """The mixer, with the sum over the group behind it if there are others in it."""
    return mixer if group.size == 1 else Reduced(mixer, group)


@dataclass(frozen=True, slots=True)
class DividedEmbedding:
    """A token table whose rows are divided.

    Attributes:
        rows: This rank's.
        group: Those that divide it.
    """

    rows: Interval
    group: Group

    def __call__(self, token_ids: Tensor, weight: Weight, out: Tensor) -> None:
        """Looks rows up as `triptych.kernels.embedding`; weight [rows.size, H]. Bits are those of the whole table."""
        own = token_ids - self.rows.start
        elsewhere = (own < 0) | (own >= self.rows.size)
        embedding(own.masked_fill_(elsewhere, 0), weight, out)
        out.masked_fill_(elsewhere.unsqueeze(1), 0)
        self.group.all_reduce(out)


@dataclass(frozen=True, slots=True)
class DividedArgmax:
    """The likeliest token of a head whose rows are divided: two numbers per row and rank are exchanged.

    Attributes:
        rows: This rank's.
        group: Those that divide it.
    """

    rows: Interval
    group: Group

    def __call__(self, x: Tensor, weight: Weight, ids: Tensor, values: Tensor) -> None:
        """As `triptych.kernels.linear_argmax`; weight [rows.size, H]. Of equal scores the smallest token wins."""
        linear_argmax(x, weight, ids, values)
        own = torch.stack((values.double(), (ids + self.rows.start).double()), dim=1)
        every = own.new_empty(self.group.size, *own.shape)
        self.group.all_gather(own, every)
        # The first of equals is of the first rank, so it is the smallest token. NaN counts as largest, and is kept.
        best = every[..., 0].argmax(dim=0)
        row = torch.arange(len(best), device=best.device)
        values.copy_(every[best, row, 0])
        ids.copy_(every[best, row, 1])
