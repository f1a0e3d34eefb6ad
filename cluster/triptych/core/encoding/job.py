"""One operation of an encode worker, and what can be true of it."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from triptych.core.generation import OperationKey


@dataclass(frozen=True, slots=True)
class Job:
    """Somebody's wish for the embeddings of some pictures.

    Attributes:
        session: The router's stream that it came by; what came by one stream ends with it.
        pictures: Content hashes in the order of the images, repeated as often as they were sent.
        sizes: Bytes of the embedding of each.
        deadline: When nobody wants them any more, on the clock that every `now` is of.
        anew: Whether a reader found embeddings of these pictures damaged: what is kept of them is computed again.
    """

    key: OperationKey
    session: Hashable
    pictures: tuple[str, ...]
    sizes: tuple[int, ...]
    deadline: float | None
    anew: bool

    @property
    def size_of(self) -> dict[str, int]:
        """Bytes of the embedding of each picture, by its hash."""
        return dict(zip(self.pictures, self.sizes, strict=True))


JobT = TypeVar("JobT", bound=Job)


@dataclass(frozen=True, slots=True)
class Batch(Generic[JobT]):
    """What passes the vision tower together.

    Attributes:
        jobs: Whose pictures these are.
        pictures: Content hashes, each once; of the jobs' other pictures there are embeddings.
        began: When.
    """

    jobs: tuple[JobT, ...]
    pictures: tuple[str, ...]
    began: float


@dataclass(frozen=True, slots=True)
class Waiting(Generic[JobT]):
    """In the queue; holds nothing."""

    job: JobT


@dataclass(frozen=True, slots=True)
class Encoding(Generic[JobT]):
    """In the batch under way; holds the room that its embeddings will take."""

    job: JobT


@dataclass(frozen=True, slots=True)
class Held:
    """Answered; holds the embeddings of its pictures."""

    session: Hashable
    pictures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """Refused; holds nothing, and is known until its Free so that a repetition does not begin again."""

    session: Hashable


Operation = Waiting[JobT] | Encoding[JobT] | Held | Failed


def session_of(operation: Operation[JobT]) -> Hashable:
    """Whose it is."""
    match operation:
        case Waiting(job) | Encoding(job):
            return job.session
        case Held(session=session) | Failed(session=session):
            return session
