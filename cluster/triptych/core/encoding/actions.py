"""What an encode worker is to do next."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic

from triptych.core.encoding.job import Batch, JobT
from triptych.core.errors import TriptychError
from triptych.core.generation import OperationKey


@dataclass(frozen=True, slots=True)
class Evict:
    """Give the memory of an embedding back: the room is needed for the next batch, or it is damaged for good."""

    picture: str


@dataclass(frozen=True, slots=True)
class Compute(Generic[JobT]):
    """Let the batch pass the vision tower, keep its embeddings in place of older ones, then say `encoded`."""

    batch: Batch[JobT]


@dataclass(frozen=True, slots=True)
class Answer(Generic[JobT]):
    """The embeddings are there, and held for the job until its Free.

    Attributes:
        began: When its batch began; None where nothing had to be computed.
    """

    job: JobT
    began: float | None


@dataclass(frozen=True, slots=True)
class Refuse(Generic[JobT]):
    """There will be no embeddings for the job; it holds nothing."""

    job: JobT
    error: TriptychError


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Say that an operation holds nothing any more."""

    session: Hashable
    key: OperationKey


Action = Evict | Compute[JobT] | Answer[JobT] | Refuse[JobT] | Acknowledge
