"""One decoder layer."""

from dataclasses import dataclass

from torch import Tensor

from triptych.kernels import gated_linear, linears, paged_attention, rope_store, silu_mul
from triptych.models.parameters import Linear, Parameters
from triptych.models.rotary import RotaryTable
from triptych.models.spec import AttentionSpec, DecoderSpec, LayerSpec
from triptych.models.step import StepInput
from triptych.models.workspace import Activations


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """Projects, rotates, stores keys and values in the pool, attends, projects back."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    rotary: RotaryTable
    scale: float

    def __call__(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """From `acts.normed` to `acts.delta`; `kv` is this layer's part of the pool."""
        linears(acts.normed, (self.query.to(acts.q), self.key.to(acts.k), self.value.to(acts.v)))
        rope_store(
            acts.q_heads,
            acts.k_heads,
            acts.v_heads,
            step.positions,
            self.rotary.cos,
            self.rotary.sin,
            step.slots,
            kv,
            self.rotary.interleaved,
        )
        paged_attention(acts.q_heads, kv, step.attention, self.scale, acts.attended_heads)
        self.output(acts.attended, acts.delta)


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(silu(gate(x)) · up(x))."""

    gate: Linear
    up: Linear
    down: Linear

    def __call__(self, acts: Activations) -> None:
        """From `acts.normed` to `acts.delta`."""
        if self.gate.bias is None and self.up.bias is None:
            gated_linear(acts.normed, self.gate.weight, self.up.weight, acts.gate)
        else:
            linears(acts.normed, (self.gate.to(acts.gate), self.up.to(acts.up)))
            silu_mul(acts.gate, acts.up, acts.gate)
        self.down(acts.gate, acts.delta)


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """The parts of a layer; `decoder` calls them between the norms."""

    attention_norm: Tensor
    attention: AttentionBlock
    mlp_norm: Tensor
    mlp: FeedForward
    norm_eps: float


def load_layer(index: int, spec: DecoderSpec, parameters: Parameters, rotary: RotaryTable) -> DecoderLayer:
    """Reads the parameters of layer `index`."""
    layer, prefix = spec.layers[index], f"model.layers.{index}"
    return DecoderLayer(
        attention_norm=parameters.tensor(f"{prefix}.input_layernorm.weight", spec.hidden_size),
        attention=_load_attention(f"{prefix}.self_attn", spec.hidden_size, layer.attention, parameters, rotary),
        mlp_norm=parameters.tensor(f"{prefix}.post_attention_layernorm.weight", spec.hidden_size),
        mlp=_load_mlp(f"{prefix}.mlp", spec.hidden_size, layer, parameters),
        norm_eps=layer.norm_eps,
    )


def _load_attention(
    prefix: str, hidden: int, spec: AttentionSpec, parameters: Parameters, rotary: RotaryTable
) -> AttentionBlock:
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    return AttentionBlock(
        query=parameters.linear(f"{prefix}.q_proj", queries, hidden, bias=spec.bias),
        key=parameters.linear(f"{prefix}.k_proj", keys, hidden, bias=spec.bias),
        value=parameters.linear(f"{prefix}.v_proj", keys, hidden, bias=spec.bias),
        output=parameters.linear(f"{prefix}.o_proj", hidden, queries, bias=spec.bias),
        rotary=rotary,
        scale=spec.head_dim**-0.5,
    )


def _load_mlp(prefix: str, hidden: int, spec: LayerSpec, parameters: Parameters) -> FeedForward:
    inner, bias = spec.mlp.intermediate_size, spec.mlp.bias
    return FeedForward(
        gate=parameters.linear(f"{prefix}.gate_proj", inner, hidden, bias=bias),
        up=parameters.linear(f"{prefix}.up_proj", inner, hidden, bias=bias),
        down=parameters.linear(f"{prefix}.down_proj", hidden, inner, bias=bias),
    )
