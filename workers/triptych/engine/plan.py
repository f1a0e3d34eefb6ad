"""One engine step: what the scheduler decides and what the runner answers."""

from dataclasses import dataclass

from triptych.core.generation import GeneratedToken
from triptych.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """`length` tokens of a sequence, from its `start`th on, to run through the model.

    Attributes:
        samples: Whether the chunk reaches the end of the sequence, so that its last row yields a token.
    """

    sequence: Sequence
    start: int
    length: int

    @property
    def samples(self) -> bool:
        """Whether the chunk ends the sequence's tokens and its last row yields the next one."""
        return self.start + self.length == len(self.sequence.token_ids)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The chunks of one step, decode tokens first."""

    chunks: tuple[Chunk, ...]

    @property
    def tokens(self) -> int:
        """Rows of the batch."""
        return sum(chunk.length for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class StepResult:
    """One token for each chunk that samples, in the plan's order."""

    tokens: tuple[GeneratedToken, ...]
