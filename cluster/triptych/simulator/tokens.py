"""A model in one line: its state after a token is a number made of all tokens before, and the next token of that.

Whatever is wrong with a token's past (its prompt, its position, a block that somebody else has written, an embedding
that is not the picture's) makes it another token.
"""

from collections.abc import Iterable, Sequence
from typing import Final

VOCABULARY: Final = 997
END_TOKEN: Final = 0
"""Ends an answer."""

_MASK: Final = (1 << 61) - 1
_FIRST: Final = 0x1B873593CC9E2D51 & _MASK


def mix(state: int, value: int) -> int:
    """The number after `state` when `value` follows; each other pair gives another number."""
    state = ((state ^ value) * 0x9E3779B97F4A7C15 + value) & _MASK
    state ^= state >> 29
    state = (state * 0xBF58476D1CE4E5B9) & _MASK
    return state ^ (state >> 31)


def checksum(values: Iterable[int]) -> int:
    """One number for some blocks or rows."""
    state = _FIRST
    for value in values:
        state = mix(state, value)
    return state


def read(before: int | None, inputs: Iterable[int]) -> int:
    """The state after reading `inputs` (token ids, or rows of embeddings); None is the beginning."""
    state = _FIRST if before is None else before
    for value in inputs:
        state = mix(state, value)
    return state


def next_token(blocks: Iterable[int], seed: int, position: int) -> int:
    """The token that follows.

    Args:
        blocks: The state at the end of every block, as it lies in memory.
        seed: Of the request.
        position: Of the token in the answer, from 0.
    """
    return mix(mix(checksum(blocks), seed), position) % VOCABULARY


def row(picture: int, place: int) -> int:
    """The embedding of one of a picture's tokens; never a token id."""
    return VOCABULARY + mix(picture, place)


def answer(inputs: Sequence[int], seed: int, limit: int, block_size: int) -> tuple[int, ...]:
    """What an undisturbed worker would say.

    Args:
        inputs: What the prompt's positions read: token ids, and `row` for pictures.
        seed: Of the request.
        limit: Tokens at most.
        block_size: Tokens per KV block.
    """
    blocks: list[int] = []
    for place, value in enumerate(inputs):
        _append(blocks, place, value, block_size)
    said: list[int] = []
    while len(said) < limit:
        said.append(next_token(blocks, seed, len(said)))
        if said[-1] == END_TOKEN:
            break
        _append(blocks, len(inputs) + len(said) - 1, said[-1], block_size)
    return tuple(said)


def _append(blocks: list[int], place: int, value: int, block_size: int) -> None:
    state = read(blocks[-1] if blocks else None, (value,))
    if place % block_size:
        blocks[-1] = state
    else:
        blocks.append(state)
