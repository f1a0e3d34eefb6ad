"""Activations of a step, in buffers that outlive it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, MoeSpec


@dataclass(frozen=True, slots=True)
class Inner:
    """What a gated feed-forward block computes inside; [T, F] each."""

    gate: Tensor
    up: Tensor


@dataclass(frozen=True, slots=True)
class Activations:
    """What the layers of one step write into; views of the workspace, T rows each.

    `q`, `k`, `v` and `attended` are seen both as rows ([T, heads · D]) and by head (`…_heads`: [T, heads, D]).

    Attributes:
        residual: [T, H], the residual stream without the last block's output.
        normed: [T, H], what a block reads.
        delta: [T, H], what it leaves.
        inner: By width F.
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
    inner: Mapping[int, Inner]


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
        self._capacity = 0
        self._head_dim = max((a.head_dim for a in _attentions(spec)), default=1)
        self._widths = _row_widths(spec)
        self._inner = {width for layer in spec.layers for width in _inner_widths(layer)}
        self._buffers: dict[str, Tensor] = {}
        self._last: tuple[int, Activations] | None = None

    def rows(self, tokens: int) -> Activations:
        """Views for a step of this many rows; their contents are undefined."""
        if self._last is not None and self._last[0] == tokens:
            return self._last[1]
        if tokens > self._capacity:
            self._grow(tokens)
        rows = {name: self._view(name, tokens, width) for name, width in self._widths.items()}
        heads = {f"{name}_heads": rows[name].view(tokens, -1, self._head_dim) for name in ("q", "k", "v", "attended")}
        inner = {w: Inner(self._view("gate", tokens, w), self._view("up", tokens, w)) for w in self._inner}
        views = Activations(**rows, **heads, inner=inner)
        self._last = (tokens, views)
        return views

    def _view(self, name: str, tokens: int, width: int) -> Tensor:
        return self._buffers[name][: tokens * width].view(tokens, width)

    def _grow(self, tokens: int) -> None:
        self._capacity = 1 << (tokens - 1).bit_length()
        widest = max(self._inner, default=0)
        self._buffers = {
            # Memory that no step touches costs nothing.
            name: torch.empty(self._capacity * width, dtype=self._dtype, device=self._device)
            for name, width in {**self._widths, "gate": widest, "up": widest}.items()
        }


def _row_widths(spec: DecoderSpec) -> dict[str, int]:
    queries = max((a.num_heads * a.head_dim for a in _attentions(spec)), default=0)
    keys = max((a.num_kv_heads * a.head_dim for a in _attentions(spec)), default=0)
    hidden = dict.fromkeys(("residual", "normed", "delta"), spec.hidden_size)
    return hidden | {"q": queries, "k": keys, "v": keys, "attended": queries}


def _attentions(spec: DecoderSpec) -> list[AttentionSpec]:
    return [layer.attention for layer in spec.layers if isinstance(layer.attention, AttentionSpec)]


def _inner_widths(layer: LayerSpec) -> list[int]:
    match layer.mlp:
        case MlpSpec(intermediate_size=width):
            return [width]
        case MoeSpec(shared=MlpSpec(intermediate_size=width)):
            return [width]
        case _:
            return []
