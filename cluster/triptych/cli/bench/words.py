"""Prompts of plain words, no two of them with the same beginning."""

from typing import Final

WORDS: Final = (
    *("river", "engine", "copper", "morning", "signal", "garden", "winter", "letter"),
    *("market", "planet", "silver", "bridge", "silent", "history", "number", "water"),
)


def text(tokens: int, salt: int) -> str:
    """About `tokens` tokens, most of them one word each.

    Args:
        tokens: At least 4, because the salt takes up to three.
        salt: Begins the text, so that no prefix cache knows a prompt of another salt.
    """
    words = (WORDS[(i * 7 + salt * 13 + i * i * salt) % len(WORDS)] for i in range(tokens - 3))
    return f"{salt} {' '.join(words)}"
