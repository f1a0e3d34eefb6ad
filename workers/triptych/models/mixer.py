"""What a block of a decoder layer computes."""

from typing import Protocol

from torch import Tensor

from triptych.models.step import StepInput
from triptych.models.workspace import Activations


class Mixer(Protocol):
    """Attention or feed-forward."""

    def __call__(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """From `acts.normed` to `acts.delta`; `kv` is the layer's part of the pool."""
