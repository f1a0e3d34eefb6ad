"""The workers of one router, kept up to date by what it sees of them."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from triptych.core.fleet.load import NOTHING, Load
from triptych.core.fleet.observe import Aged, DrainBegun, HealthLimits, Observation, observe, reconnected
from triptych.core.fleet.worker import Fleet, Health, Introduction, Worker


class FleetBook:
    """Connected workers by id, each a frozen value.

    Load is booked by worker id whether or not the worker is connected: what is dispatched to one that has just been
    lost is taken back by the requests themselves.

    Args:
        limits: When a worker is suspected and given up.
    """

    def __init__(self, limits: HealthLimits) -> None:
        self.limits = limits
        self.workers: dict[str, Worker] = {}
        self._former: dict[str, Worker] = {}  # the latest that was lost, by id: whether it comes back as it was
        self._loads: dict[str, Load] = {}

    def connect(self, introduction: Introduction, now: float) -> Worker:
        """A worker has opened its stream."""
        worker_id = introduction.worker_id
        worker = Worker(introduction, heard=now, progressed=now, load=self._loads.get(worker_id, NOTHING))
        if former := self._former.pop(worker_id, None):
            worker = reconnected(former, worker, self.limits)
        if introduction.draining:
            worker = observe(worker, DrainBegun(), now, self.limits)
        self.workers[worker_id] = worker
        return worker

    def disconnect(self, worker_id: str) -> None:
        """A worker's stream has ended."""
        if worker := self.workers.pop(worker_id, None):
            self._former[worker_id] = worker

    def retain(self, worker_ids: Collection[str]) -> None:
        """Only these workers may come back."""
        self._former = {known: worker for known, worker in self._former.items() if known in worker_ids}

    def current(self, worker_id: str, incarnation: str) -> bool:
        """Whether that process is the one whose word counts: an earlier one may still be talking."""
        worker = self.workers.get(worker_id)
        return worker is not None and worker.introduction.incarnation == incarnation

    def incarnation(self, worker_id: str) -> str:
        """The process that is connected, or was last; empty for one that never was."""
        worker = self.workers.get(worker_id) or self._former.get(worker_id)
        return worker.introduction.incarnation if worker else ""

    def observe(self, worker_id: str, event: Observation, now: float) -> None:
        """Something was seen of a worker; nothing happens when it is not connected."""
        if worker := self.workers.get(worker_id):
            self.workers[worker_id] = observe(worker, event, now, self.limits)

    def dead(self, now: float) -> tuple[str, ...]:
        """Workers that have to be given up now."""
        given_up = []
        for worker_id, before in list(self.workers.items()):
            self.observe(worker_id, Aged(), now)
            died = self.workers[worker_id].health is Health.DEAD and before.health is not Health.DEAD
            if died or now - before.heard >= self.limits.dead:
                given_up.append(worker_id)
        return tuple(given_up)

    def rebook(self, before: Mapping[str, Load], after: Mapping[str, Load]) -> None:
        """A request's load changes from `before` to `after`."""
        for worker_id in _either(before, after):
            change = after.get(worker_id, NOTHING) - before.get(worker_id, NOTHING)
            if change == NOTHING:
                continue
            load = self._loads.get(worker_id, NOTHING) + change
            self._loads[worker_id] = load
            if load == NOTHING:
                del self._loads[worker_id]
            if worker := self.workers.get(worker_id):
                self.workers[worker_id] = replace(worker, load=load)

    def loads(self) -> dict[str, Load]:
        """Everything that is dispatched, by worker."""
        return dict(self._loads)

    def snapshot(self, now: float) -> Fleet:
        """The workers that accept work."""
        return Fleet(tuple(w for w in self.workers.values() if w.accepts(now)))

    def kv_tokens(self) -> int | None:
        """Tokens of a sequence that every connected KV cache can hold; None while there is none."""
        said = (w.introduction for w in self.workers.values())
        return min((i.kv_tokens for i in said if i.total_blocks), default=None)


def _either(before: Mapping[str, Load], after: Mapping[str, Load]) -> Iterator[str]:
    yield from before
    yield from (worker_id for worker_id in after if worker_id not in before)
