"""Places for requests, taken before anything is spent on them."""

from dataclasses import dataclass

from triptych.core.errors import ResourceExhausted
from triptych.core.pictures import PictureMemory


@dataclass(slots=True)
class Seat:
    """What one request has taken before it runs: a place for each of its answers, and memory for its pictures."""

    places: int = 0
    picture_bytes: int = 0


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

    def take(self, running: int, picture_bytes: int, places: int = 1) -> Seat:
        """Takes places for a request that is to be checked.

        Raises:
            ResourceExhausted: so many are not left, now or, without `retry_after`, ever; or the pictures' memory is
                taken.
        """
        taken = running + self._checking
        if taken + places > self._limit:
            is_limit = (
                "which is the limit" if places == 1 else f"and this one has {places}; {self._limit} is the limit"
            )
            raise ResourceExhausted(
                f"{taken} requests are running, {is_limit} (router.max_running_requests)",
                retry_after=self._retry_after if places <= self._limit else None,
            )
        self.pictures.reserve(picture_bytes, self._retry_after)
        self._checking += places
        return Seat(places, picture_bytes)

    def begin(self, seat: Seat) -> None:
        """The first answer runs and has taken what it keeps; the places of the others stay taken."""
        self._checking -= 1
        self.pictures.release(seat.picture_bytes)
        seat.places -= 1
        seat.picture_bytes = 0

    def give_back(self, seat: Seat) -> None:
        """What is left: the request runs and has taken what it keeps, or it was refused."""
        self._checking -= seat.places
        self.pictures.release(seat.picture_bytes)
