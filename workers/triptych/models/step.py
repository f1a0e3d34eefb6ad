"""The input of one forward step."""

from dataclasses import dataclass, field

from torch import Tensor

from triptych.kernels import AttentionBatch


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingRows:
    """Rows of the decoder's input that come from elsewhere than the token table: an image's tokens.

    Attributes:
        row: First row of the step that is overwritten.
        values: [n, H]; converted to the decoder's type and device.
        deepstack: [levels, n, H], added to the residual stream behind the first layers (arXiv:2406.04334).
    """

    row: int
    values: Tensor
    deepstack: Tensor | None = None

    def add_level(self, layer: int, residual: Tensor) -> None:
        """Adds what belongs behind a layer to its rows of the residual stream [T, H]."""
        if self.deepstack is not None and layer < len(self.deepstack):
            residual[self.row : self.row + len(self.values)] += self.deepstack[layer].to(residual)


@dataclass(frozen=True, slots=True, eq=False)
class TokenAxes:
    """Three positions of each token (M-RoPE, arXiv:2409.12191).

    Attributes:
        values: [3, T] int64: time, height and width.
        turned: What `RotaryTable.of` has made of them, by table; every layer of a step asks for it.
    """

    values: Tensor
    turned: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class StepInput:
    """One batch of prompt chunks and decode tokens, row after row; index tensors on the decoder's device.

    Attributes:
        token_ids: [T] int64.
        positions: [T] int64, that each token is turned by: its index in its sequence, unless images have shifted it.
        slots: [T] int64, where each token's keys and values go: block · block_size + offset.
        attention: Which rows belong to which sequence.
        logit_rows: [R] int64, the rows whose next token is wanted; R may be 0.
        embeddings: Rows that are not taken from the token table.
        axes: Where the three positions of a token differ; None where `positions` says it all.
        adapters: [T] int32, the number of each row's adapter, -1 for none; None when no row has one.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    attention: AttentionBatch
    logit_rows: Tensor
    embeddings: tuple[EmbeddingRows, ...] = ()
    axes: TokenAxes | None = None
    adapters: Tensor | None = None
