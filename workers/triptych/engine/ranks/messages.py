"""What the ranks of a replica say to each other about steps.

Rank 0 to the others, in order: `HoldEmbedding`, `DropEmbedding` (`engine.ranks.images`), `Step`, `Stop`.
The others to rank 0: `Loading` now and then, `Ready` once, then `StepDone` from the first rank of each further lane.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from triptych.core.generation import PositionLogprobs


@dataclass(frozen=True, slots=True)
class Step:
    """Compute this.

    Attributes:
        rows: The part of the receiver's lane (`engine.ranks.encoding`).
    """

    rows: bytes


@dataclass(frozen=True, slots=True)
class Stop:
    """There will be no more steps."""


@dataclass(frozen=True, slots=True)
class Loading:
    """The rank has done some more of what it does before it is ready."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The rank has its share of the model, and waits for steps."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """What a step has yielded for the sequences of a lane.

    Attributes:
        token_ids: One for each row that was scored; none where the model broke down.
        logprobs: By place, where they were asked for.
        broken: Places of the rows without a finite score.
        unread: Why experts of the step could not be read, on this rank or another; empty if they were.
    """

    token_ids: tuple[int, ...] = ()
    logprobs: Mapping[int, PositionLogprobs] = field(default_factory=dict)
    broken: tuple[int, ...] = ()
    unread: str = ""
