"""A BERT-style encoder over texts of any lengths: every token is a row of one matrix, and none is padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.kernels import Weight, embedding
from triptych.models.parameters import Parameters
from triptych.models.spec import TextEncoderSpec
from triptych.models.towers.blocks import (
    Attention,
    FeedForward,
    Norm,
    load_attention,
    load_feed_forward,
    load_norm,
)


@dataclass(frozen=True, slots=True)
class PostNormLayer:
    """A transformer layer whose norms stand behind the sums (arXiv:1706.03762)."""

    attention: Attention
    attention_norm: Norm
    mlp: FeedForward
    mlp_norm: Norm

    def __call__(self, x: Tensor, lengths: Sequence[int]) -> None:
        """Updates x [T, H] in place; `lengths` are those of the texts in it."""
        inner = torch.empty_like(x)
        self.attention(x, lengths, inner)
        self.attention_norm(x.add_(inner), x)
        self.mlp(x, inner)
        self.mlp_norm(x.add_(inner), x)


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """Words, positions and layers.

    Attributes:
        spec: What it is.
        dtype: Of weights and rows.
        device: Where they are.
    """

    spec: TextEncoderSpec
    dtype: torch.dtype
    device: torch.device
    _words: Weight
    _positions: Tensor
    _type: Tensor | None
    _norm: Norm
    _layers: tuple[PostNormLayer, ...]

    @classmethod
    def of(cls, spec: TextEncoderSpec, parameters: Parameters, dtype: torch.dtype) -> "TextEncoder":
        """Builds it from its tensors."""
        eps = spec.blocks.norm_eps
        return cls(
            spec,
            dtype,
            parameters.device,
            parameters.weight("words.weight"),
            parameters.tensor("positions.weight")[spec.first_position :],
            parameters.tensor("types.weight")[0] if spec.token_types else None,
            load_norm("norm", eps, parameters),
            tuple(_layer(f"layers.{i}", spec, parameters) for i in range(spec.blocks.num_layers)),
        )

    def __call__(self, token_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """The last layer's rows.

        Args:
            token_ids: [T] int64, the tokens of all texts; neighbours of one length are computed together.
            lengths: Tokens of each text; their sum is T.

        Returns:
            [T, H] of `dtype`.
        """
        rows = torch.empty(len(token_ids), self.spec.blocks.hidden_size, dtype=self.dtype, device=self.device)
        embedding(token_ids, self._words, rows)
        if self._type is not None:
            rows.add_(self._type)
        rows.add_(self._positions[torch.cat([torch.arange(length) for length in lengths]).to(self.device)])
        self._norm(rows, rows)
        for layer in self._layers:
            layer(rows, lengths)
        return rows


def _layer(prefix: str, spec: TextEncoderSpec, parameters: Parameters) -> PostNormLayer:
    blocks = spec.blocks
    return PostNormLayer(
        load_attention(f"{prefix}.attention", blocks.num_heads, parameters),
        load_norm(f"{prefix}.attention_norm", blocks.norm_eps, parameters),
        load_feed_forward(f"{prefix}.mlp", blocks.activation, parameters),
        load_norm(f"{prefix}.mlp_norm", blocks.norm_eps, parameters),
    )
