"""A divided model at work, for tests: ranks as threads of one process."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from triptych.models.decoder import Decoder
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.testing import run_threads


class Follows(Protocol):
    """A sequence whose prompt has been run, but for its last token."""

    def follow(self, token_id: int) -> int:
        """Runs one token and returns the likeliest next one."""


Run = Callable[[Decoder], tuple[Tensor, Follows]]
"""Runs a prompt but for its last token: logits [n, V_local] of the decoder's vocabulary, and the sequence."""


def divided_answer(
    parallelism: Parallelism, load: Callable[[Mesh], Decoder], run: Run, last: int, count: int
) -> tuple[Tensor, list[list[int]]]:
    """Runs a prompt and its greedy answer on all ranks of one lane.

    Args:
        parallelism: How many ranks, in what grid.
        load: Opens the part of one rank.
        run: The prompt.
        last: Its last token.
        count: Tokens of the answer.

    Returns:
        The logits of the prompt's rows [n, V], put together, and the answer that each rank has found.
    """

    def one(mesh: Mesh) -> tuple[Tensor, list[int]]:
        logits, sequence = run(load(mesh))
        tokens = [last]
        for _ in range(count):
            tokens.append(sequence.follow(tokens[-1]))
        return logits, tokens[1:]

    results = run_threads(parallelism, one)
    logits = [part for part, _ in results[: parallelism.attention_size]]
    return torch.cat(logits, dim=1), [tokens for _, tokens in results]
