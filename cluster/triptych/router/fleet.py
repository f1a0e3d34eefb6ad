"""The workers as the controller has placed them and as they describe themselves: what operators are shown."""

from collections import Counter
from dataclasses import dataclass

from triptych.core.errors import FailedPrecondition
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
    """

    worker_id: str
    role: Stage
    address: str
    pid: int = 0
    restarts: int = 0


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
    )
