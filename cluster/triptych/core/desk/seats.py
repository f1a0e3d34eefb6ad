"""Places for requests, taken before anything is spent on them."""

from triptych.core.errors import ResourceExhausted
from triptych.core.pictures import PictureMemory


class Seats:
    """Counts requests that are being checked beside those that run.

    Args:
        limit: Requests of both kinds together (`router.max_running_requests`).
        pictures: The memory of their pictures.
        retry_after: Seconds that a refused caller is told to wait.
    """

    def __init__(self, limit: int, pictures: PictureMemory, retry_after: float) -> None:
        self.pictures = pictures
        self._limit = limit
        self._retry_after = retry_after
        self._checking = 0

    def take(self, running: int, picture_bytes: int) -> None:
        """Takes a place for a request that is to be checked.

        Raises:
            ResourceExhausted: every place, or the pictures' memory, is taken.
        """
        if running + self._checking >= self._limit:
            raise ResourceExhausted(
                f"{self._limit} requests are running, which is the limit (router.max_running_requests)",
                retry_after=self._retry_after,
            )
        self.pictures.reserve(picture_bytes, self._retry_after)
        self._checking += 1

    def give_back(self, picture_bytes: int) -> None:
        """The request runs and has taken what it keeps, or it was refused."""
        self._checking -= 1
        self.pictures.release(picture_bytes)
