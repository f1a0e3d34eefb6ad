"""The fake cluster's workers."""

import threading
from collections.abc import Sequence
from typing import Final

from triptych.admin.v1 import admin_pb2
from triptych.core.errors import FailedPrecondition
from triptych.core.fleet import Stage
from triptych.core.reconcile import Roster, Serving, Worker, drain, scale
from triptych.wire.stage import stage_from_proto, stage_to_proto

ABILITIES: Final = {
    Stage.ENCODE: frozenset({Stage.ENCODE}),
    Stage.PREFILL: frozenset({Stage.PREFILL}),
    Stage.DECODE: frozenset({Stage.PREFILL, Stage.DECODE}),
}


class FakeFleet:
    """Workers that come and go with time, which passes when somebody looks: one look per change.

    A drained worker is seen once as draining and then no more, a new one once as starting and then healthy.

    Args:
        status: The cluster at first.
    """

    def __init__(self, status: admin_pb2.GetClusterStatusResponse) -> None:
        self._status: Final = status
        self._lock: Final = threading.Lock()

    def look(self) -> admin_pb2.GetClusterStatusResponse:
        """The cluster at this moment."""
        with self._lock:
            seen = admin_pb2.GetClusterStatusResponse()
            seen.CopyFrom(self._status)
            for worker in list(self._status.workers):
                match worker.health:
                    case admin_pb2.WORKER_HEALTH_DRAINING:
                        self._status.workers.remove(worker)
                    case admin_pb2.WORKER_HEALTH_STARTING:
                        worker.health = admin_pb2.WORKER_HEALTH_HEALTHY
                _settle(worker)
            return seen

    def drain(self, worker_id: str) -> None:
        """As a real cluster does it, errors included."""
        with self._lock:
            drain(self._roster(), worker_id, 0.0)
            self._dismiss(worker_id)

    def scale(self, stage: Stage, replicas: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """As a real cluster does it, errors included; what is started, and what is drained."""
        with self._lock:
            _, started, drained = scale(self._roster(), stage, replicas, 0.0)
            for worker_id in drained:
                self._dismiss(worker_id)
            for worker_id in started:
                starting = admin_pb2.WORKER_HEALTH_STARTING
                self._status.workers.add(worker_id=worker_id, role=stage_to_proto(stage), health=starting)
            return started, drained

    def balance(self, worker_ids: Sequence[str]) -> list[str]:
        """Begins to move experts; who does."""
        with self._lock:
            able = [w for w in self._status.workers if w.load.HasField("experts")]
            told = [w for w in able if w.worker_id in (worker_ids or [w.worker_id])]
            if not told:
                raise FailedPrecondition(
                    "no worker divides experts among ranks, and can move them", field="worker_ids"
                )
            for worker in told:
                worker.load.experts.moving = True
                worker.load.experts.rebalances += 1
            return [worker.worker_id for worker in told]

    def _roster(self) -> Roster:
        roles = {w.worker_id: role for w in self._status.workers if (role := stage_from_proto(w.role))}
        leaving = {w.worker_id for w in self._status.workers if w.health == admin_pb2.WORKER_HEALTH_DRAINING}
        desired = {worker_id: role for worker_id, role in roles.items() if worker_id not in leaving}
        workers = {worker_id: Worker(role, Serving(0.0)) for worker_id, role in roles.items()}
        return Roster(ABILITIES, desired, workers)

    def _dismiss(self, worker_id: str) -> None:
        for worker in self._status.workers:
            if worker.worker_id == worker_id:
                worker.health = admin_pb2.WORKER_HEALTH_DRAINING


def _settle(worker: admin_pb2.WorkerStatus) -> None:
    """Experts that move are where they should be at the next look."""
    if worker.load.experts.moving:
        worker.load.experts.moving = False
        for layer in worker.load.experts.layers:
            layer.before, layer.after, layer.now = layer.now, 1.0, 1.0
            worker.load.experts.commits += 1
