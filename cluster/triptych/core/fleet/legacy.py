"""What the router knows of its workers at one moment."""

from dataclasses import dataclass

from triptych.core.fleet.stage import Stage


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker in a snapshot. Load is what the router has dispatched and not seen ended, never what it heard of.

    Attributes:
        worker_id: Unique in the cluster; survives a restart.
        role: What the router sends it.
        stages: What it is able to do.
        requests: Dispatched requests that it still works on.
        tokens: Prompt tokens among them that wait for prefill.
        images: Images among them that wait for encoding.
    """

    worker_id: str
    role: Stage
    stages: frozenset[Stage]
    requests: int = 0
    tokens: int = 0
    images: int = 0


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers that can be sent work now."""

    workers: tuple[Worker, ...] = ()

    def serving(self, stage: Stage) -> tuple[Worker, ...]:
        """Workers of that role; where there are none, workers of another role that are able to do it."""
        by_role = tuple(w for w in self.workers if w.role is stage)
        return by_role or tuple(w for w in self.workers if stage in w.stages)
