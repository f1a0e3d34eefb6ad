"""All workers of a cluster: those that should be, and those that are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from triptych.core.fleet import Stage
from triptych.core.reconcile.backoff import NONE, RestartHistory
from triptych.core.reconcile.states import Absent, State

MAX_WORKERS: Final = 1024
"""Workers of one stage."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker that exists, or is to exist.

    Attributes:
        role: Its stage.
        state: What is true of it.
        history: Its deaths; `history.total` is the number of its current or next start.
        requests: What the router last said runs there.
        patience: Seconds that requests may go on once it is drained.
    """

    role: Stage
    state: State
    history: RestartHistory = NONE
    requests: int = 0
    patience: float = 0.0


@dataclass(frozen=True, slots=True)
class Roster:
    """Desired and actual state.

    Attributes:
        abilities: What a worker of each role can do.
        desired: The role of each worker that should serve, by id.
        workers: Every worker, by id: the desired ones, and those on their way out.
    """

    abilities: Mapping[Stage, frozenset[Stage]]
    desired: Mapping[str, Stage]
    workers: Mapping[str, Worker]

    def with_state(self, worker_id: str, state: State) -> "Roster":
        """The roster with one worker in another state."""
        return self.with_worker(worker_id, replace(self.workers[worker_id], state=state))

    def with_worker(self, worker_id: str, worker: Worker) -> "Roster":
        """The roster with one worker replaced or added."""
        return replace(self, workers={**self.workers, worker_id: worker})

    def without(self, worker_id: str) -> "Roster":
        """The roster without a worker that is gone."""
        return replace(self, workers={known: w for known, w in self.workers.items() if known != worker_id})


def new_roster(desired: Mapping[str, Stage], abilities: Mapping[Stage, frozenset[Stage]]) -> Roster:
    """A cluster of which nothing runs yet."""
    return Roster(
        abilities, dict(desired), {worker_id: Worker(role, Absent()) for worker_id, role in desired.items()}
    )
