"""What the controller hears, and what it does. A worker's start is named by its id and the number of the attempt."""

from collections.abc import Mapping
from dataclasses import dataclass

from triptych.core.fleet import Health


@dataclass(frozen=True, slots=True)
class Started:
    """A worker serves."""

    worker_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A worker could not be placed, or could not begin to serve."""

    worker_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Died:
    """A worker serves no longer, or its process has ended."""

    worker_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """Nothing of a worker's actor is left: the answer to `Stop` and `Kill`."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Heard:
    """The router's view, about once a second.

    Attributes:
        health: Of each connected worker: one that is missing is not heard, one that is dead computes nothing.
        requests: What runs on each worker or awaits its Free; a missing one has none.
    """

    health: Mapping[str, Health]
    requests: Mapping[str, int]


Event = Started | StartFailed | Died | Stopped | Heard


@dataclass(frozen=True, slots=True)
class Start:
    """Place an actor; answer with `Started` or `StartFailed`."""

    worker_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Have the router send no new work there, and move what still runs after `timeout` seconds."""

    worker_id: str
    timeout: float


@dataclass(frozen=True, slots=True)
class Stop:
    """End the actor in order; answer with `Stopped`."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End the actor's process, which would not hear a request to stop; answer with `Stopped`."""

    worker_id: str


Action = Start | Drain | Stop | Kill
