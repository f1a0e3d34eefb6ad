"""Where a request is. Each state holds what its continuation needs, and nothing else."""

from dataclasses import dataclass

from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason
from triptych.core.plan import Plan


@dataclass(frozen=True, slots=True)
class Queued:
    """Has no workers: just accepted, or a worker of its plan was lost.

    Attributes:
        since: When it began to wait.
        not_before: When it may be placed: a worker that was full has said when to come back.
    """

    since: float
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Encoding:
    """Waits for the embeddings of `missing` images."""

    plan: Plan
    missing: frozenset[int]


@dataclass(frozen=True, slots=True)
class Reserving:
    """Waits for blocks on the decode worker."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Prefilling:
    """Waits for the first token of this attempt.

    Attributes:
        kv_arrived: The decode worker has all KV already: it may be told so before the router hears of the token.
    """

    plan: Plan
    kv_arrived: bool = False


@dataclass(frozen=True, slots=True)
class Transferring:
    """Has a token; the prefill worker still sends KV, and cannot be freed yet."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Decoding:
    """The answer is on its way."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete."""

    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no answer, or no more of it."""

    error: TriptychError


Placed = Encoding | Reserving | Prefilling | Transferring | Decoding
Ended = Finished | Failed
State = Queued | Placed | Ended
