"""Which texts are computed together. No torch."""

from collections.abc import Sequence


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Puts texts into batches of at most `budget` tokens, those of like length together.

    Args:
        lengths: Tokens of each text.
        budget: Tokens of a batch; a longer text has one to itself.

    Returns:
        Indices of texts, each once, the shortest first.
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or lengths[index] > room:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= lengths[index]
    return batches
