"""Grouped-query attention over the paged cache."""

from dataclasses import dataclass

from torch import Tensor

from triptych.kernels import linears, paged_attention, rope_store
from triptych.models.adapting import adapt
from triptych.models.norms import RmsNorm, load_norm
from triptych.models.parameters import Linear, Parameters
from triptych.models.rotary import RotaryTable
from triptych.models.sharding import Rows
from triptych.models.sharding.norms import DividedQkNorms
from triptych.models.spec import AttentionSpec
from triptych.models.step import StepInput
from triptych.models.workspace import Activations


@dataclass(frozen=True, slots=True)
class QkNorms:
    """Norms of queries and keys, over heads or over whole projections."""

    query: RmsNorm
    key: RmsNorm
    by_head: bool

    def __call__(self, acts: Activations) -> None:
        """Normalises `acts.q` and `acts.k` in place."""
        q, k = acts.q, acts.k
        if self.by_head:
            q, k = acts.q_heads.flatten(0, 1), acts.k_heads.flatten(0, 1)
        self.query(q, q)
        self.key(k, k)


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """Projects, turns, stores keys and values in the pool, attends, projects back."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    norms: QkNorms | DividedQkNorms | None
    sinks: Tensor | None
    rotary: RotaryTable
    scale: float
    window: int
    softcap: float

    def __call__(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """From `acts.normed` to `acts.delta`; `kv` is this layer's part of the pool."""
        linears(acts.normed, (self.query.to(acts.q), self.key.to(acts.k), self.value.to(acts.v)))
        adapt(step, acts.normed, (self.query, acts.q), (self.key, acts.k), (self.value, acts.v))
        if self.norms is not None:
            self.norms(acts)
        positions, cos, sin = self.rotary.of(step)
        rope_store(
            acts.q_heads, acts.k_heads, acts.v_heads, positions, cos, sin, step.slots, kv, self.rotary.interleaved
        )
        paged_attention(
            acts.q_heads,
            kv,
            step.attention,
            self.scale,
            acts.attended_heads,
            window=self.window,
            softcap=self.softcap,
            sinks=self.sinks,
        )
        self.output(acts.attended, acts.delta)
        adapt(step, acts.attended, (self.output, acts.delta))


def load_attention(prefix: str, spec: AttentionSpec, parameters: Parameters, rotary: RotaryTable) -> AttentionBlock:
    """Reads the block whose tensors begin with `prefix`."""
    return AttentionBlock(
        query=parameters.linear(f"{prefix}.query"),
        key=parameters.linear(f"{prefix}.key"),
        value=parameters.linear(f"{prefix}.value"),
        output=parameters.linear(f"{prefix}.output"),
        norms=_load_norms(prefix, spec, parameters),
        sinks=parameters.tensor(f"{prefix}.sinks.weight").float() if spec.sinks else None,
        rotary=rotary,
        scale=spec.scale,
        window=spec.window,
        softcap=spec.softcap,
    )


def _load_norms(prefix: str, spec: AttentionSpec, parameters: Parameters) -> QkNorms | DividedQkNorms | None:
    if spec.qk_norm == "none":
        return None
    query = load_norm(f"{prefix}.query_norm", spec.norm, parameters)
    key = load_norm(f"{prefix}.key_norm", spec.norm, parameters)
    if spec.qk_norm == "head" or parameters.mesh.attention.size == 1:
        return QkNorms(query, key, by_head=spec.qk_norm == "head")
    cut = parameters.cuts[f"{prefix}.key_norm.weight"]
    return DividedQkNorms(
        query,
        key,
        query_width=parameters.weights.shape(f"{prefix}.query_norm.weight")[0],
        key_width=parameters.weights.shape(f"{prefix}.key_norm.weight")[0],
        counts_keys=isinstance(cut, Rows) and cut.first,
        group=parameters.mesh.attention,
    )
