"""One engine step: what the scheduler decides and what the runner answers."""

from collections.abc import Mapping
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from triptych.core.errors import Internal
from triptych.core.generation import PositionLogprobs
from triptych.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """`length` tokens of a sequence, from its `start`th on, to run through the model."""

    sequence: Sequence
    start: int
    length: int

    @property
    def samples(self) -> bool:
        """Whether the chunk ends the sequence's tokens and its last row yields the next one."""
        return self.start + self.length == len(self.sequence.token_ids)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The rows of one step: first one for each answer that goes on, then the chunks of prompts.

    Attributes:
        decodes: Sequences that run their last token, the only one whose KV is not computed yet.
        prompts: Parts of sequences that have more to compute, or that have just come in.
        lanes: Where there are several, the step of each, of which this is all (`engine.lanes`).
    """

    decodes: tuple[Sequence, ...] = ()
    prompts: tuple[Chunk, ...] = ()
    lanes: tuple["StepPlan", ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.decodes or self.prompts)

    @property
    def tokens(self) -> int:
        """Rows of the batch."""
        return len(self.decodes) + sum(chunk.length for chunk in self.prompts)

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """Whose rows they are, in their order."""
        return self.decodes + tuple(chunk.sequence for chunk in self.prompts)

    @property
    def sampling(self) -> tuple[Sequence, ...]:
        """The sequences that get a token, in the order of their rows; until the step is committed."""
        return tuple(chain(self.decodes, (chunk.sequence for chunk in self.prompts if chunk.samples)))


class NoFiniteRows(Internal):
    """The model broke down: no token can be chosen for some rows of a step.

    Args:
        places: Of them among the sampled rows.
    """

    def __init__(self, places: tuple[int, ...]) -> None:
        super().__init__("the largest score of the next token is not a finite number")
        self.places = places


class NoFiniteScore(Internal):
    """The model broke down: no token can be chosen for some sequences.

    Args:
        sequences: Which.
    """

    def __init__(self, sequences: tuple[Sequence, ...]) -> None:
        super().__init__("the largest score of the next token is not a finite number")
        self.sequences = sequences


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step yields.

    Attributes:
        token_ids: One for each of the plan's `sampling`.
        logprobs: By place in `token_ids`, where they were asked for.
        routes: [layer, row, K], the experts that each row took, where steps are made by them (`engine.turns`).
    """

    token_ids: Sequence_[int] = ()
    logprobs: Mapping[int, PositionLogprobs] = field(default_factory=dict)
    routes: npt.NDArray[np.int32] | None = field(default=None, compare=False)
