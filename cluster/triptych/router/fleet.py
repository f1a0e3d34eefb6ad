"""The workers as the controller has placed them and as they describe themselves: what operators are shown."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from triptych.core.errors import FailedPrecondition, NotFound
from triptych.core.fleet import Stage
from triptych.core.fleet.worker import Introduction
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.stage import stage_from_proto, stage_to_proto


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """Where the controller has placed a worker.

    Attributes:
        address: "host:port" of its StageService; empty while it is being started.
        pid: Its process.
        restarts: How often it has been started again.
        rank_pids: The processes of all its ranks; empty where it is one.
        last_end: Why the last time; empty when it was not, or nothing is known.
    """

    worker_id: str
    role: Stage
    address: str
    pid: int = 0
    restarts: int = 0
    rank_pids: tuple[int, ...] = ()
    last_end: str = ""


class FleetDirectory:
    """Addresses, introductions and reports by worker. What decides anything is in the core's `FleetBook`."""

    def __init__(self) -> None:
        self.addresses: dict[str, WorkerAddress] = {}
        self.welcomes: dict[str, pb.Welcome] = {}
        self.reports: dict[str, pb.LoadReport] = {}

    def connect(self, welcome: pb.Welcome) -> None:
        """A worker has opened its stream."""
        self.welcomes[welcome.worker_id] = welcome
        self.reports[welcome.worker_id] = pb.LoadReport()

    def disconnect(self, worker_id: str) -> None:
        """A worker's stream has ended."""
        self.welcomes.pop(worker_id, None)
        self.reports.pop(worker_id, None)

    def balancing(self, worker_ids: Sequence[str]) -> tuple[str, ...]:
        """Those of these workers that have experts to move, all of which must; of all workers if there are none.

        Raises:
            NotFound: there is no such worker.
            FailedPrecondition: one of them has no experts to move, or none of all.
        """
        able = [w for w in self.addresses if (report := self.reports.get(w)) and report.HasField("experts")]
        for worker_id in worker_ids:
            if worker_id not in self.addresses:
                raise NotFound(f"there is no worker {worker_id!r:.60}", field="worker_ids")
            if worker_id not in able:
                raise FailedPrecondition(f"{worker_id} has no experts that could be moved", field="worker_ids")
        if not able:
            raise FailedPrecondition("no worker divides experts among ranks, and can move them", field="worker_ids")
        return tuple(worker_ids or able)

    def complete(self) -> bool:
        """Whether every worker that the controller has placed is connected."""
        return bool(self.addresses) and self.addresses.keys() <= self.welcomes.keys()

    def begun(self) -> bool:
        """Whether every worker is connected, those aside that have failed and are tried again where others do."""
        first = {a.worker_id for a in self.addresses.values() if a.address or not a.restarts}
        return self.able() and first <= self.welcomes.keys()

    def able(self) -> bool:
        """Whether somebody can do the work of each stage: one that is being added takes nothing away."""
        stages = {stage for welcome in self.welcomes.values() for stage in welcome.stages}
        return bool(stages) and all(stage_to_proto(address.role) in stages for address in self.addresses.values())

    def layout(self) -> str:
        """The roles of all placed workers, such as "1E1P1D"."""
        roles = Counter(address.role for address in self.addresses.values())
        return "".join(f"{roles[stage]}{stage[0].upper()}" for stage in Stage if roles[stage])


def introduction(welcome: pb.Welcome) -> Introduction:
    """What a worker says of itself.

    Raises:
        FailedPrecondition: it has a role that this router does not know.
    """
    role = stage_from_proto(welcome.role)
    if role is None:
        raise FailedPrecondition(f"worker {welcome.worker_id} has the unknown role {welcome.role}")
    return Introduction(
        worker_id=welcome.worker_id,
        incarnation=welcome.incarnation,
        role=role,
        stages=frozenset(stage for value in welcome.stages if (stage := stage_from_proto(value))),
        total_blocks=welcome.total_blocks,
        block_size=welcome.block_size,
        draining=welcome.draining,
        lanes=welcome.lanes or 1,
    )
