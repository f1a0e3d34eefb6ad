"""One worker as its router knows it."""

import enum
from dataclasses import dataclass

from triptych.core.fleet.breaker import TRUSTED, Breaker, admits
from triptych.core.fleet.load import NOTHING, Load
from triptych.core.fleet.stage import Stage


class Health(enum.StrEnum):
    """What a worker may be given."""

    HEALTHY = "healthy"
    """New work."""
    SUSPECT = "suspect"
    """Silent for longer than usual, or standing still: no new work, and nothing is taken away yet."""
    DRAINING = "draining"
    """No new work for good; what runs may end there."""
    DEAD = "dead"
    """Nothing: its stream is cut, its requests go on elsewhere."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a worker says of itself when a stream opens.

    Attributes:
        worker_id: Unique in the cluster; survives a restart.
        incarnation: Names the process; a restart changes it.
        role: What the router sends it.
        stages: What it is able to do.
        total_blocks: Size of its KV pool.
        block_size: Tokens per block.
        lanes: Equal parts that the pool consists of; a sequence fits into one.
        draining: It refuses new work already, whoever has drained it.
    """

    worker_id: str
    incarnation: str
    role: Stage
    stages: frozenset[Stage]
    total_blocks: int = 0
    block_size: int = 0
    draining: bool = False
    lanes: int = 1

    @property
    def kv_tokens(self) -> int:
        """What one sequence can have."""
        return self.total_blocks // self.lanes * self.block_size


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's own account, as far as decisions need it.

    Attributes:
        steps: Steps that it has computed since it started.
        runnable: Requests that a step could be computed for.
        held_blocks: Blocks of its KV pool in use.
        draining: It refuses new work.
    """

    steps: int = 0
    runnable: int = 0
    held_blocks: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Worker:
    """A connected worker.

    Attributes:
        heard: When a message of it last arrived.
        progressed: When it last had computed a step, or had nothing to compute.
        load: What the router has dispatched and not seen ended; never what the worker reports.
        report: Its own account.
        health: What it may be given.
        breaker: Whether it has failed too often.
    """

    introduction: Introduction
    heard: float = 0.0
    progressed: float = 0.0
    load: Load = NOTHING
    report: Report = Report()
    health: Health = Health.HEALTHY
    breaker: Breaker = TRUSTED

    @property
    def worker_id(self) -> str:
        """Its name in the cluster."""
        return self.introduction.worker_id

    @property
    def role(self) -> Stage:
        """What the router sends it."""
        return self.introduction.role

    @property
    def stages(self) -> frozenset[Stage]:
        """What it is able to do."""
        return self.introduction.stages

    @property
    def kv_use(self) -> float:
        """Share of its KV pool in use, 0 to 1; 0 for a worker without one."""
        total = self.introduction.total_blocks
        return self.report.held_blocks / total if total else 0.0

    def accepts(self, now: float) -> bool:
        """Whether new work may be sent to it."""
        return self.health is Health.HEALTHY and admits(self.breaker, now)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers that can be sent work at one moment: what plans are made from."""

    workers: tuple[Worker, ...] = ()

    def serving(self, stage: Stage) -> tuple[Worker, ...]:
        """Workers of that role; where there are none, workers of another role that are able to do it."""
        by_role = tuple(w for w in self.workers if w.role is stage)
        return by_role or tuple(w for w in self.workers if stage in w.stages)

    def without(self, worker_ids: frozenset[str]) -> "Fleet":
        """The fleet without these workers."""
        return Fleet(tuple(w for w in self.workers if w.worker_id not in worker_ids))
