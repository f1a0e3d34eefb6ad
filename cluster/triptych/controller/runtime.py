"""Where workers run, behind the few calls that the controller needs: `RayRuntime`, in tests `InProcessRuntime`."""

from dataclasses import dataclass
from typing import Protocol

from triptych.controller.actor import Running, Started
from triptych.controller.desired import DesiredWorker


class Actor(Protocol):
    """One placed actor."""

    async def start(self) -> Started:
        """Loads the model and serves.

        Raises:
            TriptychError: what the worker raised, or Unavailable when its process died.
        """

    async def running(self) -> Running | None:
        """What serves there; None when nothing does, or nobody answers."""

    async def wait(self) -> str:
        """Returns when the worker serves no longer, with the reason as far as there is one to tell."""

    async def stop(self) -> None:
        """Ends the worker in order, or its process when it does not answer."""

    async def kill(self) -> None:
        """Ends the process."""


@dataclass(frozen=True, slots=True)
class FoundActor:
    """An actor that an earlier controller has placed.

    Attributes:
        name: Unique among all actors.
        attempt: Number of its start.
    """

    name: str
    worker_id: str
    attempt: int
    actor: Actor


class Runtime(Protocol):
    """Where actors are placed."""

    async def take_over(self, cluster: str) -> tuple[FoundActor, ...]:
        """Becomes the one who places the actors of a cluster; gives those that are there.

        Raises:
            FailedPrecondition: another controller is that.
        """

    async def place(self, worker: DesiredWorker, attempt: int) -> Actor:
        """Has an actor started; does not wait for it. Who is cancelled, or fails, leaves nothing placed."""

    def close(self) -> None:
        """Lets go of the runtime."""
