"""What is measured, as data: the same work for every engine that is compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Final

from triptych.cli.bench.words import text
from triptych.core.errors import InvalidArgument

REPEATS: Final = 3
WARM_UP_TOKENS: Final = 8

_LEAST: Final = 4  # tokens of a prompt: its salt, and one word


@dataclass(frozen=True, slots=True)
class Decode:
    """A batch of prompts at once, greedy, the end of sequence ignored; output tokens per second."""

    batch: int
    prompt_tokens: int
    output_tokens: int

    @property
    def counted(self) -> int:
        """Tokens that the rate counts."""
        return self.batch * self.output_tokens


@dataclass(frozen=True, slots=True)
class Prefill:
    """One prompt, one output token; prompt tokens per second."""

    prompt_tokens: int

    batch = 1
    output_tokens = 1

    @property
    def counted(self) -> int:
        """Tokens that the rate counts."""
        return self.prompt_tokens


Workload = Decode | Prefill


def workloads(batches: Sequence[int], prompt: int, out: int, prefill: int) -> tuple[Workload, ...]:
    """Decoding with every batch size, then one long prompt.

    Raises:
        InvalidArgument: a size is too small to be measured.
    """
    for name, value, least in (("prompt", prompt, _LEAST), ("out", out, 1), ("prefill", prefill, _LEAST)):
        if value < least:
            raise InvalidArgument(f"--{name} must be at least {least}, got {value}", field=name)
    if not batches or min(batches) < 1:
        raise InvalidArgument(f"--batches must name sizes of at least 1, got {list(batches)}", field="batches")
    return (*(Decode(batch, prompt, out) for batch in batches), Prefill(prefill))


class FreshPrompts:
    """Prompts that nobody has seen: each has a salt of its own."""

    def __init__(self) -> None:
        self._salts: Iterator[int] = count(1)

    def take(self, prompts: int, tokens: int) -> list[str]:
        """That many texts of about `tokens` tokens."""
        return [text(tokens, salt) for salt in islice(self._salts, prompts)]
