"""Where worker processes live: what Ray is to the controller."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from triptych.core.fleet.stage import Stage
from triptych.core.reconcile import messages as ev
from triptych.core.reconcile.adoption import Found
from triptych.simulator.worker import Worker

if TYPE_CHECKING:
    from triptych.simulator.world import World

DETECTION_SECONDS = 0.5
STOP_SECONDS = 0.2


@dataclass(slots=True, eq=False)
class Actor:
    """One start of a worker; `worker` is None until it serves, `ended` once nothing of it is left."""

    worker_id: str
    attempt: int
    worker: Worker | None = None
    ended: bool = False

    @property
    def serves(self) -> Worker | None:
        """The process, if it lives."""
        return self.worker if self.worker and self.worker.alive else None


class Runtime:
    """Starts and ends processes; outlives every controller.

    Args:
        world: What it is part of.
        encoding: Roles whose workers have the vision part.

    Attributes:
        starts: How often each worker was started.
        losses: How often each died, was killed as hung, was told to leave or not taken over.
    """

    def __init__(self, world: World, encoding: frozenset[Stage]) -> None:
        self.actors: dict[str, Actor] = {}
        self.all: list[Worker] = []
        self.starts: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self._world = world
        self._encoding = encoding

    @property
    def living(self) -> list[Worker]:
        """Processes that have not ended."""
        return [worker for worker in self.all if worker.alive]

    def start(self, worker_id: str, role: Stage, attempt: int) -> None:
        """Places an actor; the controller hears of its start."""
        self.starts[worker_id] += 1
        actor = self.actors[worker_id] = Actor(worker_id, attempt)
        self._world.agenda.after(self._world.spec.costs.start, lambda: self._serve(actor, role))

    def end(self, worker_id: str) -> None:
        """Ends an actor, whatever it is doing; the controller hears of its end."""
        self._world.agenda.after(STOP_SECONDS, lambda: self._end(worker_id))

    def clear(self, worker_id: str) -> None:
        """Ends an actor that a new controller does not take over, before it starts anything."""
        self.losses[worker_id] += 1
        self._remove(worker_id)

    def found(self) -> list[Found]:
        """What a new controller finds: actors that serve have the right settings, by the name of their role."""
        return [
            Found(actor.worker_id, actor.worker_id, actor.attempt, actor.serves.role if actor.serves else "")
            for actor in self.actors.values()
            if not actor.ended
        ]

    def worker(self, worker_id: str, attempt: int) -> Worker | None:
        """The process of a start, while it serves."""
        actor = self.actors.get(worker_id)
        return actor.worker if actor and actor.attempt == attempt and not actor.ended else None

    def crash(self, worker: Worker) -> None:
        """A process ends by itself."""
        worker.die()
        self.losses[worker.name] += 1
        for actor in self.actors.values():
            if actor.worker is worker:
                died = partial(self._tell, ev.Died(actor.worker_id, actor.attempt))
                self._world.agenda.after(DETECTION_SECONDS, died)

    def _serve(self, actor: Actor, role: Stage) -> None:
        if actor.ended:
            return
        number = sum(worker.name == actor.worker_id for worker in self.all) + 1
        worker = Worker(actor.worker_id, f"{actor.worker_id}#{number}", role, role in self._encoding, self._world)
        actor.worker = worker
        self.all.append(worker)
        self._world.transcript.note(actor.worker_id, "", f"serves as {worker.incarnation}")
        self._tell(ev.Started(actor.worker_id, actor.attempt))

    def _end(self, worker_id: str) -> None:
        self._remove(worker_id)
        self._tell(ev.Stopped(worker_id))

    def _remove(self, worker_id: str) -> None:
        actor = self.actors.pop(worker_id, None)
        if actor:
            actor.ended = True
            if actor.worker:
                actor.worker.die()

    def _tell(self, event: ev.Event) -> None:
        if controller := self._world.controller:
            self._world.agenda.after(0.0, lambda: controller.observe(event), controller.io)
