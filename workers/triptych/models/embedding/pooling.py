"""From the rows of a text to one vector, and to a shorter one."""

from collections.abc import Sequence
from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.models.spec import Pooling


def pool(rows: Tensor, lengths: Sequence[int], pooling: Pooling) -> Tensor:
    """One row for each text.

    Args:
        rows: [T, H].
        lengths: Rows of each text, in order; their sum is T.
        pooling: How.

    Returns:
        [len(lengths), H] float32, whatever the type of `rows`.
    """
    stops = torch.tensor(lengths, device=rows.device).cumsum(0)
    match pooling:
        case "cls":
            return rows[stops - torch.tensor(lengths, device=rows.device)].float()
        case "last":
            return rows[stops - 1].float()
        case "mean":
            return torch.stack([text.float().mean(0) for text in torch.split(rows, list(lengths))])
        case "max":
            return torch.stack([text.float().amax(0) for text in torch.split(rows, list(lengths))])
        case _:
            assert_never(pooling)


def shortened(vectors: NDArray[np.float32], dimensions: int, *, normalise: bool) -> NDArray[np.float32]:
    """The first numbers of every vector (Matryoshka representations, arXiv:2205.13147).

    Args:
        vectors: [N, D].
        dimensions: How many; 0 means all.
        normalise: Whether the model's vectors have length 1: then the shorter ones get it again.
    """
    if not dimensions or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12) if normalise else cut
