"""The input of one forward step."""

from dataclasses import dataclass

from torch import Tensor

from triptych.kernels import AttentionBatch


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingRows:
    """Rows of the decoder's input that come from elsewhere than the token table: an image's tokens.

    Attributes:
        row: First row of the step that is overwritten.
        values: [n, H]; converted to the decoder's type and device.
    """

    row: int
    values: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class StepInput:
    """One batch of prompt chunks and decode tokens, row after row; index tensors on the decoder's device.

    Attributes:
        token_ids: [T] int64.
        positions: [T] int64, of each token in its sequence.
        slots: [T] int64, where each token's keys and values go: block · block_size + offset.
        attention: Which rows belong to which sequence.
        logit_rows: [R] int64, the rows whose next token is wanted; R may be 0.
        embeddings: Rows that are not taken from the token table.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    attention: AttentionBatch
    logit_rows: Tensor
    embeddings: tuple[EmbeddingRows, ...] = ()
