"""Activations of a step, in buffers that outlive it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.models.spec import DecoderSpec


@dataclass(frozen=True, slots=True)
class Activations:
    """What the layers of one step write into; views of the workspace, T rows each.

    `up` is empty where no projection of the feed-forward blocks has a bias, because `gated_linear` needs none. `q`,
    `k`, `v` and `attended` are seen both as rows ([T, heads · D]) and by head (`…_heads`: [T, heads, D]).
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
    gate: Tensor
    up: Tensor


class Workspace:
    """Buffers for the largest step seen so far; a step that needs more makes them grow.

    Args:
        spec: Gives the widths.
        dtype: Of the activations.
        device: Where they are.
    """

    def __init__(self, spec: DecoderSpec, dtype: torch.dtype, device: torch.device) -> None:
        self._spec = spec
        self._dtype = dtype
        self._device = device
        self._capacity = 0
        self._widths = _widths(spec)
        self._buffers: dict[str, Tensor] = {}
        self._last: tuple[int, Activations] | None = None

    def rows(self, tokens: int) -> Activations:
        """Views for a step of this many rows; their contents are undefined."""
        if self._last is not None and self._last[0] == tokens:
            return self._last[1]
        if tokens > self._capacity:
            self._grow(tokens)
        rows = {name: buffer[:tokens] for name, buffer in self._buffers.items()}
        head_dim = self._spec.layers[0].attention.head_dim
        heads = {f"{name}_heads": rows[name].view(tokens, -1, head_dim) for name in ("q", "k", "v", "attended")}
        views = Activations(**rows, **heads)
        self._last = (tokens, views)
        return views

    def _grow(self, tokens: int) -> None:
        self._capacity = 1 << (tokens - 1).bit_length()
        self._buffers = {
            name: torch.empty(self._capacity, width, dtype=self._dtype, device=self._device)
            for name, width in self._widths.items()
        }


def _widths(spec: DecoderSpec) -> dict[str, int]:
    attention, mlp = spec.layers[0].attention, spec.layers[0].mlp
    queries = attention.num_heads * attention.head_dim
    keys = attention.num_kv_heads * attention.head_dim
    return {
        "residual": spec.hidden_size,
        "normed": spec.hidden_size,
        "delta": spec.hidden_size,
        "q": queries,
        "k": keys,
        "v": keys,
        "attended": queries,
        "gate": mlp.intermediate_size,
        "up": mlp.intermediate_size if any(layer.mlp.bias for layer in spec.layers) else 0,
    }
