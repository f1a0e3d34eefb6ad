"""What a step wants to know of the rows that it scores."""

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """The score of every token.

    Attributes:
        values: [R, V] float32, written; of the decoder's `vocabulary`.
    """

    values: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Likeliest:
    """The token with the largest score, without the scores of the others in memory.

    Attributes:
        token_ids: [R] int64, written.
        values: [R] float32, their scores, written.
    """

    token_ids: Tensor
    values: Tensor


Head: TypeAlias = Logits | Likeliest
