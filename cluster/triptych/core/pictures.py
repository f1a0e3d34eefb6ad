"""The memory that the pictures of running requests take."""

from dataclasses import dataclass

from triptych.core.errors import ResourceExhausted


@dataclass(slots=True)
class PictureMemory:
    """Counts bytes. A request holds its pictures to its end: if an encode worker is lost, they are encoded again.

    Attributes:
        limit: Bytes of all pictures together (`router.picture_memory`).
        held: Bytes that are taken now.
    """

    limit: int
    held: int = 0

    def reserve(self, size: int, retry_after: float) -> None:
        """Takes `size` bytes.

        Raises:
            ResourceExhausted: they do not fit, now or, without `retry_after`, ever.
        """
        if size > self.limit - self.held:
            raise ResourceExhausted(
                f"the pictures of running requests have {self.held} bytes and this request's {size}; "
                f"the limit is {self.limit} bytes (router.picture_memory)",
                retry_after=retry_after if size <= self.limit else None,
            )
        self.held += size

    def keep(self, size: int) -> None:
        """Takes `size` bytes for a request that has been accepted, whose reservation is about to be released."""
        self.held += size

    def release(self, size: int) -> None:
        """Gives `size` bytes back."""
        self.held -= size
