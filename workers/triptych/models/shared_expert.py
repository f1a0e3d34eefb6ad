"""A block that every token goes through besides its experts."""

from dataclasses import dataclass

from torch import Tensor

from triptych.kernels import add_gated
from triptych.models.feed_forward import FeedForward, load_feed_forward
from triptych.models.parameters import Linear, Parameters
from triptych.models.spec import MoeSpec
from triptych.models.step import StepInput
from triptych.models.workspace import Activations


@dataclass(frozen=True, slots=True)
class SharedExpert:
    """A block for every token; `gate` [1, H] says how much of it, None all."""

    block: FeedForward
    gate: Linear | None

    def add(self, step: StepInput, acts: Activations, share: Tensor) -> None:
        """Adds its output to `acts.delta`; `share` [T, 1] float32 is written."""
        self.block.into(step, acts, acts.shared)
        if self.gate is not None:
            self.gate(acts.normed, share)
        add_gated(acts.shared, None if self.gate is None else share, acts.delta)


def load_shared(prefix: str, spec: MoeSpec, parameters: Parameters) -> SharedExpert | None:
    """Reads that of the mixture whose tensors begin with `prefix`, if it has one."""
    if spec.shared is None:
        return None
    block = load_feed_forward(f"{prefix}.shared", spec.shared, parameters)
    return SharedExpert(block, parameters.linear(f"{prefix}.shared_gate") if spec.shared_gate else None)
