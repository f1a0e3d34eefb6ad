"""What every arm completes: the same prompts, in the same order and number."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from triptych.core.errors import InvalidArgument
from triptych.models.synthetic import SyntheticShape
from triptych.models.text import TextProcessor

PROMPT: Final = 33
"""Tokens of a prompt: blocks of the KV cache that fill up, and one token that every repetition begins with."""

TEXTS: Final = (
    "The lighthouse keeper had not spoken to anyone for eleven days when the supply boat came round the headland. He "
    "walked down the iron steps slowly, counting them as he always did, and waited until the rope had been thrown.",
    'def read_rows(path, delimiter=","):\n    """Yields the rows of a file as lists of strings."""\n    '
    "with open(path) as file:\n        for line in file:\n            yield line.rstrip().split(delimiter)",
    "Chapter 3. The circulation of the blood. The heart is a muscle with four chambers: two atria, which receive the "
    "blood, and two ventricles, which drive it out again. Between them there are valves, whose purpose is",
    "User: My bicycle chain keeps falling off whenever I change to the smallest gear. I have cleaned it already. "
    "What should I look at next?\nAssistant: There are three usual causes, and they are easy to tell apart. First,",
    "Minutes of the meeting of 14 June. Present: seven members, two guests. The treasurer reported that the roof of "
    "the library will cost more than was planned, because the timber has to be replaced. It was agreed that",
    "Problem. A tank holds 240 litres of water. One pump fills it in 6 hours, another empties it in 8 hours. If both "
    "run at once, how long does it take until the tank is full? Solution. In one hour the first pump",
)
"""None of which is among those that predictors are trained on."""


@dataclass(frozen=True, slots=True)
class Work:
    """Greedy answers of a fixed length.

    Attributes:
        prompts: Token ids of each; `PROMPT` of them.
        tokens: Of each answer.
        batch: Prompts that are completed together.
    """

    prompts: tuple[tuple[int, ...], ...]
    tokens: int
    batch: int

    @property
    def answered(self) -> int:
        """Tokens of all answers."""
        return len(self.prompts) * self.tokens

    def batches(self) -> Iterator[list[tuple[int, ...]]]:
        """The prompts of each call, in order."""
        for start in range(0, len(self.prompts), self.batch):
            yield list(self.prompts[start : start + self.batch])


def texts_of(processor: TextProcessor, count: int) -> tuple[tuple[int, ...], ...]:
    """The first texts as prompts.

    Raises:
        InvalidArgument: there are not as many, or a tokenizer makes one shorter than a prompt.
    """
    if not 1 <= count <= len(TEXTS):
        raise InvalidArgument(f"--texts must be in [1, {len(TEXTS)}], got {count}", field="texts")
    prompts = tuple(tuple(processor.encode(text)[:PROMPT]) for text in TEXTS[:count])
    if shortest := next((prompt for prompt in prompts if len(prompt) < PROMPT), None):
        raise InvalidArgument(
            f"the model's tokenizer makes {len(shortest)} tokens of a text of the benchmark", field="model"
        )
    return prompts


def walks_of(shape: SyntheticShape, count: int, *, past: bool) -> tuple[tuple[int, ...], ...]:
    """Prompts of a synthetic model from all along its walk; those of the past lie between those that are measured."""
    stride = shape.vocabulary // (2 * count)
    starts = (stride * (2 * number + past) for number in range(count))
    return tuple(tuple((start + step) % shape.vocabulary for step in range(PROMPT)) for start in starts)
