"""One operation of a worker that makes vectors of texts, and what is to be done for it."""

from collections.abc import Hashable
from dataclasses import dataclass

from triptych.core.errors import TriptychError
from triptych.core.generation import OperationKey


@dataclass(frozen=True, slots=True)
class TextJob:
    """Somebody's wish for vectors.

    Attributes:
        session: The router's stream that it came by; what came by one stream ends with it.
        lengths: Tokens of each text.
        received: When it came.
        deadline: When nobody wants them any more, on the clock that every `now` is of.
    """

    key: OperationKey
    session: Hashable
    lengths: tuple[int, ...]
    received: float
    deadline: float | None

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(self.lengths)


@dataclass(frozen=True, slots=True)
class Batch:
    """What passes the encoder together.

    Attributes:
        texts: Job and place within it, of each text.
        tokens: Of all of them.
        began: When.
    """

    texts: tuple[tuple[TextJob, int], ...]
    tokens: int
    began: float


@dataclass(frozen=True, slots=True)
class Answer:
    """All vectors of the job are there.

    Attributes:
        began: When the first batch with a text of it began.
    """

    job: TextJob
    began: float


@dataclass(frozen=True, slots=True)
class Refuse:
    """There will be no vectors for the job."""

    job: TextJob
    error: TriptychError


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Say that an operation is over; what is kept for it can go."""

    session: Hashable
    key: OperationKey


Action = Answer | Refuse | Acknowledge
