"""What an encode worker has room for."""

from dataclasses import dataclass

from triptych.core.encoding.job import Job
from triptych.core.errors import ResourceExhausted


@dataclass(frozen=True, slots=True)
class EncodeLimits:
    """What an encode worker has room for.

    Attributes:
        budget_bytes: Bytes of all embeddings together.
        max_entries: Embeddings at most, unless more are held.
        max_waiting_images: Pictures that may wait, each counted as often as it was sent.
    """

    budget_bytes: int
    max_entries: int
    max_waiting_images: int

    def require_room(self, job: Job) -> None:
        """Refuses what would wait for ever.

        Raises:
            ResourceExhausted: The embeddings of the job are more than may be kept.
        """
        sizes = job.size_of
        if (needed := sum(sizes.values())) > self.budget_bytes:
            raise ResourceExhausted(
                f"the embeddings of {len(sizes)} images need {needed} bytes; "
                f"this worker keeps at most {self.budget_bytes} (transfer.embedding_cache)"
            )
