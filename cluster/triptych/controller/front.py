"""What the controller asks of a router."""

from collections.abc import Mapping
from typing import Protocol

from triptych.core.fleet import Health
from triptych.router.fleet import WorkerAddress


class Front(Protocol):
    """A router, as its controller sees it."""

    def take_over(self) -> None:
        """The workers have served before: the door is open as soon as somebody can do the work of each stage."""

    async def place(self, addresses: tuple[WorkerAddress, ...]) -> None:
        """All workers as they are placed now: without an address while they start, left out once they are gone."""

    def drain(self, worker_id: str, timeout: float) -> None:
        """No new work goes there from now on, and what runs there is moved after `timeout` seconds.

        Asked again, the newer time counts.
        """

    def requests(self) -> Mapping[str, int]:
        """What runs on each worker or awaits its Free; a worker that is left out has none."""

    def health(self) -> Mapping[str, Health]:
        """Of each connected worker."""
