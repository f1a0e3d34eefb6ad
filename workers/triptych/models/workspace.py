"""Activations of a step, in buffers that outlive it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.models.spec import AttentionSpec, DecoderSpec, LatentAttentionSpec, LayerSpec, MlpSpec, MoeSpec


@dataclass(frozen=True, slots=True)
class Inner:
    """What a gated feed-forward block computes inside; [T, F] each."""

    gate: Tensor
    up: Tensor


@dataclass(frozen=True, slots=True)
class Choices:
    """Which K of E experts every row goes to.

    Attributes:
        logits: [T, E] float32, of the router.
        ids: [T, K] int32.
        weights: [T, K] float32.
        share: [T, 1] float32, of the gate of a block that every row goes through.
    """

    logits: Tensor
    ids: Tensor
    weights: Tensor
    share: Tensor

    @classmethod
    def of(cls, rows: int, experts: int, top_k: int, device: torch.device) -> "Choices":
        """Not filled yet."""
        logits, weights, share = (torch.empty(rows, width, device=device) for width in (experts, top_k, 1))
        return cls(logits, torch.empty(rows, top_k, dtype=torch.int32, device=device), weights, share)

    def part(self, rows: slice) -> "Choices":
        """Of some rows."""
        return Choices(self.logits[rows], self.ids[rows], self.weights[rows], self.share[rows])


@dataclass(frozen=True, slots=True)
class LatentRows:
    """What latent attention computes inside; the dimensions are those of `kernels.latent`.

    Attributes:
        query: [T, rank], compressed queries.
        q: [T, Hq · (P + R)].
        compressed: [T, C + R], what the cache will keep.
        absorbed: [T, Hq, C + R].
        weighted: [T, Hq, C].
        values: [T, Hq, V].
    """

    query: Tensor
    q: Tensor
    compressed: Tensor
    absorbed: Tensor
    weighted: Tensor
    values: Tensor

    @property
    def q_heads(self) -> Tensor:
        """[T, Hq, P + R], a view of `q`."""
        heads = self.absorbed.shape[1]
        return self.q.view(len(self.q), heads, self.q.shape[1] // heads)

    @classmethod
    def of(cls, rows: int, spec: LatentAttentionSpec, dtype: torch.dtype, device: torch.device) -> "LatentRows":
        """Not filled yet."""
        heads, latent, turned = spec.num_heads, spec.latent_dim, spec.rope.dimensions
        shapes = (
            (spec.query_rank or 0,),
            (heads * (spec.plain_dim + turned),),
            (latent + turned,),
            (heads, latent + turned),
            (heads, latent),
            (heads, spec.value_dim),
        )
        return cls(*(torch.empty(rows, *shape, dtype=dtype, device=device) for shape in shapes))

    def first(self, rows: int) -> "LatentRows":
        """Of the first rows."""
        parts = (self.query, self.q, self.compressed, self.absorbed, self.weighted, self.values)
        return LatentRows(*(part[:rows] for part in parts))


@dataclass(frozen=True, slots=True)
class Activations:
    """What the layers of one step write into; views of the workspace, T rows each.

    `q`, `k`, `v` and `attended` are seen both as rows ([T, heads · D]) and by head (`…_heads`: [T, heads, D]).

    Attributes:
        residual: [T, H], the residual stream without the last block's output.
        normed: [T, H], what a block reads.
        delta: [T, H], what it leaves.
        shared: [T, H], of the block that every row goes through besides its experts.
        inner: By width F.
        choices: By E and K.
        latent: Of latent attention.
    """

    residual: Tensor
    normed: Tensor
    delta: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    attended: Tensor
    q_heads: Tensor
    k_heads: Tensor
    v_heads: Tensor
    attended_heads: Tensor
    shared: Tensor
    inner: Mapping[int, Inner]
    choices: Mapping[tuple[int, int], Choices]
    latent: LatentRows | None


class Workspace:
    """Buffers for the largest step seen so far; a step that needs more makes them grow.

    Args:
        spec: Gives the widths.
        dtype: Of the activations.
        device: Where they are.
    """

    def __init__(self, spec: DecoderSpec, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._capacity = -1  # a step without rows has its views too
        self._head_dim = max((a.head_dim for a in _attentions(spec)), default=1)
        self._widths = _row_widths(spec)
        self._inner = {width for layer in spec.layers for width in _inner_widths(layer)}
        self._routed = {(m.num_experts, m.top_k) for m in _mixtures(spec)}
        self._buffers: dict[str, Tensor] = {}
        self._choices: dict[tuple[int, int], Choices] = {}
        latents = (layer.attention for layer in spec.layers if isinstance(layer.attention, LatentAttentionSpec))
        self._latent_spec = next(latents, None)  # the caches of all layers are alike
        self._latent: LatentRows | None = None
        self._last: tuple[int, Activations] | None = None

    def rows(self, tokens: int) -> Activations:
        """Views for a step of this many rows; their contents are undefined."""
        if self._last is not None and self._last[0] == tokens:
            return self._last[1]
        if tokens > self._capacity:
            self._grow(tokens)
        rows = {name: self._view(name, tokens, width) for name, width in self._widths.items()}
        heads = {f"{name}_heads": self._by_head(rows[name]) for name in ("q", "k", "v", "attended")}
        inner = {w: Inner(self._view("gate", tokens, w), self._view("up", tokens, w)) for w in self._inner}
        choices = {key: room.part(slice(tokens)) for key, room in self._choices.items()}
        latent = None if self._latent is None else self._latent.first(tokens)
        views = Activations(**rows, **heads, inner=inner, choices=choices, latent=latent)
        self._last = (tokens, views)
        return views

    def _view(self, name: str, tokens: int, width: int) -> Tensor:
        return self._buffers[name][: tokens * width].view(tokens, width)

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.view(len(rows), rows.shape[1] // self._head_dim, self._head_dim)

    def _grow(self, tokens: int) -> None:
        self._capacity = 1 << max(tokens - 1, 0).bit_length()
        widest = max(self._inner, default=0)
        self._buffers = {
            # Memory that no step touches costs nothing.
            name: torch.empty(self._capacity * width, dtype=self._dtype, device=self._device)
            for name, width in {**self._widths, "gate": widest, "up": widest}.items()
        }
        self._choices = {key: Choices.of(self._capacity, *key, self._device) for key in self._routed}
        if self._latent_spec is not None:
            self._latent = LatentRows.of(self._capacity, self._latent_spec, self._dtype, self._device)


def _row_widths(spec: DecoderSpec) -> dict[str, int]:
    queries = max((a.num_heads * a.head_dim for a in _attentions(spec)), default=0)
    keys = max((a.num_kv_heads * a.head_dim for a in _attentions(spec)), default=0)
    hidden = dict.fromkeys(("residual", "normed", "delta"), spec.hidden_size)
    hidden["shared"] = spec.hidden_size if any(mixture.shared for mixture in _mixtures(spec)) else 0
    return hidden | {"q": queries, "k": keys, "v": keys, "attended": queries}


def _attentions(spec: DecoderSpec) -> list[AttentionSpec]:
    return [layer.attention for layer in spec.layers if isinstance(layer.attention, AttentionSpec)]


def _mixtures(spec: DecoderSpec) -> list[MoeSpec]:
    return [layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]


def _inner_widths(layer: LayerSpec) -> list[int]:
    match layer.mlp:
        case MlpSpec(intermediate_size=width):
            return [width]
        case MoeSpec(shared=MlpSpec(intermediate_size=width)):
            return [width]
        case _:
            return []
