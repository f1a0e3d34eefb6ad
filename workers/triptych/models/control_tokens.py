"""Special tokens that several texts of a conversation spell only together."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

_MARKERS: Final = dict.fromkeys((0xF0000, 0xF0001))
"""Private characters that transformers removes from what it renders; without them their neighbours touch."""


class ControlTokens:
    """Finds special tokens across the borders of texts.

    transformers keeps a special token that one text spells from becoming one. A template may put texts side by side,
    and `<|im_` and `end|>` are harmless each for itself.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        longest_first = sorted((token for token in tokens if token), key=len, reverse=True)
        self._length = len(longest_first[0]) if longest_first else 0
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def across(self, texts: Sequence[str]) -> str | None:
        """A token that begins in one text and ends in another, side by side as they are or without outer space."""
        shown = [text.translate(_MARKERS) for text in texts]
        return self._across(shown) or self._across([text.strip() for text in shown])

    def _across(self, texts: Sequence[str]) -> str | None:
        joined = "".join(texts)
        border = 0
        for text in texts[:-1]:
            border += len(text)
            for start in range(max(0, border - self._length + 1), border):
                match = self._pattern.match(joined, start)
                if match and match.end() > border:
                    return match[0]
        return None
