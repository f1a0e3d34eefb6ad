"""Gated feed-forward blocks."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from triptych.kernels import Op, gated_linear, gelu_mul, gelu_tanh_mul, linears, silu_mul
from triptych.models.adapting import adapt
from triptych.models.parameters import Linear, Parameters
from triptych.models.spec import Gate, MlpSpec
from triptych.models.step import StepInput
from triptych.models.workspace import Activations

GATES: Mapping[Gate, Op[[Tensor, Tensor]]] = {"silu": silu_mul, "gelu": gelu_mul, "gelu_tanh": gelu_tanh_mul}


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(act(gate(x)) · up(x))."""

    gate: Linear
    up: Linear
    down: Linear
    activation: Gate
    width: int

    def __call__(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """From `acts.normed` to `acts.delta`."""
        self.into(step, acts, acts.delta)

    def into(self, step: StepInput, acts: Activations, out: Tensor) -> None:
        """From `acts.normed` to `out`."""
        inner = acts.inner[self.width]
        if self._fused(step):
            gated_linear(acts.normed, self.gate.weight, self.up.weight, inner.gate)
        else:
            linears(acts.normed, (self.gate.to(inner.gate), self.up.to(inner.up)))
            adapt(step, acts.normed, (self.gate, inner.gate), (self.up, inner.up))
            GATES[self.activation](inner.gate, inner.up, inner.gate)
        self.down(inner.gate, out)
        adapt(step, inner.gate, (self.down, out))

    def _fused(self, step: StepInput) -> bool:
        """Whether nothing comes between the projections and the gate."""
        adapted = step.adapters is not None and bool(self.gate.low_rank or self.up.low_rank)
        return self.activation == "silu" and self.gate.bias is None and self.up.bias is None and not adapted


def load_feed_forward(prefix: str, spec: MlpSpec, parameters: Parameters) -> FeedForward:
    """Reads the block whose tensors begin with `prefix`."""
    return FeedForward(
        gate=parameters.linear(f"{prefix}.gate"),
        up=parameters.linear(f"{prefix}.up"),
        down=parameters.linear(f"{prefix}.down"),
        activation=spec.activation,
        width=spec.intermediate_size,
    )
