"""Multi-head latent attention over the paged cache (DeepSeek-V2, arXiv:2405.04434); `kernels.latent` says how."""

from dataclasses import dataclass

from torch import Tensor

from triptych.kernels import absorb_query, expand_value, latent_attention, store_latent
from triptych.models.norms import RmsNorm, load_norm
from triptych.models.parameters import Linear, Parameters
from triptych.models.rotary import RotaryTable
from triptych.models.spec import LatentAttentionSpec, NormSpec
from triptych.models.step import StepInput
from triptych.models.workspace import Activations, LatentRows


@dataclass(frozen=True, slots=True)
class CompressedQuery:
    """Queries by way of a narrower vector, which is normalised."""

    down: Linear
    norm: RmsNorm
    up: Linear

    def __call__(self, x: Tensor, rows: LatentRows) -> None:
        """From x [T, H] to `rows.q`."""
        self.down(x, rows.query)
        self.norm(rows.query, rows.query)
        self.up(rows.query, rows.q)


@dataclass(frozen=True, slots=True)
class PlainQuery:
    """Queries by one projection."""

    projection: Linear

    def __call__(self, x: Tensor, rows: LatentRows) -> None:
        """From x [T, H] to `rows.q`."""
        self.projection(x, rows.q)


@dataclass(frozen=True, slots=True)
class LatentAttentionBlock:
    """Compresses, stores one vector of each token, attends to those, expands and projects back.

    Attributes:
        query: Makes queries.
        compress: To what the cache keeps, [C + R, H].
        norm: Of the first C of it.
        key_up: [Hq, P, C].
        value_up: [Hq, V, C].
        output: Projects back.
        rotary: Turns R dimensions of queries and of what the cache keeps.
        scale: Factor of the scores.
    """

    query: CompressedQuery | PlainQuery
    compress: Linear
    norm: RmsNorm
    key_up: Tensor
    value_up: Tensor
    output: Linear
    rotary: RotaryTable
    scale: float

    def __call__(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """From `acts.normed` to `acts.delta`; `kv` is this layer's part of the pool."""
        rows = acts.latent
        assert rows is not None, "the workspace is made for the spec"
        positions, cos, sin = self.rotary.of(step)
        turned = self.rotary.interleaved
        self.query(acts.normed, rows)
        self.compress(acts.normed, rows.compressed)
        store_latent(rows.compressed, self.norm.weight, self.norm.eps, positions, cos, sin, step.slots, kv, turned)
        absorb_query(rows.q_heads, self.key_up, positions, cos, sin, rows.absorbed, turned)
        latent_attention(rows.absorbed, kv, step.attention, self.scale, rows.weighted)
        expand_value(rows.weighted, self.value_up, rows.values)
        self.output(rows.values.flatten(1), acts.delta)


def load_latent_attention(
    prefix: str, spec: LatentAttentionSpec, parameters: Parameters, rotary: RotaryTable
) -> LatentAttentionBlock:
    """Reads the block whose tensors begin with `prefix`."""
    norm = NormSpec(spec.norm_eps)
    # Both halves stay plain numbers whatever the quantisation: one is read along its rows, the other across.
    up = parameters.tensor(f"{prefix}.kv_up.weight").view(spec.num_heads, -1, spec.latent_dim)
    return LatentAttentionBlock(
        query=_load_query(prefix, spec, norm, parameters),
        compress=parameters.linear(f"{prefix}.kv_down"),
        norm=load_norm(f"{prefix}.kv_down_norm", norm, parameters),
        key_up=up[:, : spec.plain_dim].contiguous(),
        value_up=up[:, spec.plain_dim :].contiguous(),
        output=parameters.linear(f"{prefix}.output"),
        rotary=rotary,
        scale=spec.scale,
    )


def _load_query(
    prefix: str, spec: LatentAttentionSpec, norm: NormSpec, parameters: Parameters
) -> CompressedQuery | PlainQuery:
    if spec.query_rank is None:
        return PlainQuery(parameters.linear(f"{prefix}.query"))
    return CompressedQuery(
        down=parameters.linear(f"{prefix}.query_down"),
        norm=load_norm(f"{prefix}.query_down_norm", norm, parameters),
        up=parameters.linear(f"{prefix}.query_up"),
    )
