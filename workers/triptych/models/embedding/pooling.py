"""From the rows of a text to one vector."""

from collections.abc import Sequence
from typing import assert_never

import torch
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
