"""Special tokens that several texts of a conversation spell only together."""

import re
from collections.abc import Sequence
from typing import Final

from transformers import PreTrainedTokenizerFast

_MARKERS: Final = dict.fromkeys((0xF0000, 0xF0001))
"""Private characters that transformers removes from what it renders; without them their neighbours touch."""


class ControlTokens:
    """Finds special tokens across the borders of texts.

    transformers keeps a special token that one text spells from becoming one. A template may put texts side by side,
    and `<|im_` and `end|>` are harmless each for itself.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        # Some vocabularies have added tokens for runs of space, which carry no meaning of their own.
        added = [token for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
        self._special = tuple(token.content for token in added if token.special)
        self._ordinary = tuple(token.content for token in added if not token.special)
        self._length = max(map(len, (*self._special, *self._ordinary)), default=0)
        self._pattern = _any_of((*self._special, *self._ordinary))

    def of_template(self, template: str) -> re.Pattern[str]:
        """Matches the special tokens, and of the other added ones those that the template writes (`<tool_call>`).

        This is what `apply_chat_template(sanitize_control_tokens=True)` keeps apart from callers' texts.
        """
        written = (token for token in self._ordinary if token in template)
        return _any_of((*self._special, *written))

    def within(self, text: str) -> str | None:
        """A token that the text spells by itself."""
        match = self._pattern.search(text.translate(_MARKERS))
        return match[0] if match else None

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


def _any_of(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Matches any of these, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")
