"""What an encode worker has room for."""

from dataclasses import dataclass

from triptych.core.encoding.job import Job
from triptych.core.errors import ResourceExhausted


@dataclass(frozen=True, slots=True)
class EncodeLimits:
    """What an encode worker has room for.

    Attributes:
        picture_bytes: Size of the embedding of any picture.
        budget_bytes: Bytes of all embeddings together.
        max_entries: Embeddings at most, unless more are held.
        max_waiting_images: Pictures that may wait, each counted as often as it was sent.
    """

    picture_bytes: int
    budget_bytes: int
    max_entries: int
    max_waiting_images: int

    def require_room(self, job: Job) -> None:
        """Refuses what would wait for ever.

        Raises:
            ResourceExhausted: The embeddings of the job are more than may be kept.
        """
        count = len(frozenset(job.pictures))
        if (needed := count * self.picture_bytes) > self.budget_bytes:
            raise ResourceExhausted(
                f"the embeddings of {count} images need {needed} bytes; this worker keeps at most {self.budget_bytes}"
            )
