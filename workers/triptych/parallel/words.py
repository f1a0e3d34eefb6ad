"""A word of each rank, told to all of them."""

from enum import IntEnum

import torch

from triptych.parallel.group import Mesh


class Word(IntEnum):
    """How a rank has fared with what all of them do at the same time."""

    DONE = 0
    FAILED = 1
    BUSY = 2
    """It goes on, and says so again."""


def told(mesh: Mesh, word: Word, device: torch.device) -> list[Word]:
    """By rank, and the same on every rank. All of them call it.

    Raises:
        RankLost: one has not, in time.
    """
    words = torch.zeros(mesh.parallelism.size, device=device)
    words[mesh.rank] = word
    mesh.tensor.all_reduce(words)  # along rows of the grid, then along columns
    mesh.expert.all_reduce(words)
    return [Word(int(each)) for each in words.tolist()]
