"""Who is likely to be asked for."""

import torch
from torch import Tensor


def candidates(scores: Tensor, top: int) -> list[int]:
    """Experts among any row's best, those first that all rows together make likeliest.

    Args:
        scores: [T, E] float32, on the CPU.
        top: How many of each row count as its best; ties go to the lower number.

    Returns:
        Each once, by the sum over rows of softmax, in double precision; ties by number. None if a score is not
        finite: the step will have to run again.
    """
    if not scores.isfinite().all():
        return []
    best = torch.argsort(scores, dim=-1, descending=True, stable=True)[:, :top]
    chances: list[float] = scores.double().softmax(-1).sum(0).tolist()
    return sorted(set(best.flatten().tolist()), key=lambda expert: (-chances[expert], expert))
