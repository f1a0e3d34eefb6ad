"""The workers that a router knows: where they are, what they reported, and what was dispatched to them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from triptych.core.errors import FailedPrecondition
from triptych.core.fleet import Fleet, Stage, Worker
from triptych.core.load import Load
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.stage import stage_from_proto


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
    """Answers "who can be sent work now" with a frozen snapshot."""

    def __init__(self) -> None:
        self.addresses: dict[str, WorkerAddress] = {}
        self.welcomes: dict[str, pb.Welcome] = {}
        self.reports: dict[str, pb.LoadReport] = {}
        self._roles: dict[str, Stage] = {}
        self._loads: dict[str, Load] = {}

    def connect(self, welcome: pb.Welcome) -> None:
        """A worker has opened its stream.

        Raises:
            FailedPrecondition: it has a role that this router does not know.
        """
        role = stage_from_proto(welcome.role)
        if role is None:
            raise FailedPrecondition(f"worker {welcome.worker_id} has the unknown role {welcome.role}")
        self._roles[welcome.worker_id] = role
        self.welcomes[welcome.worker_id] = welcome
        self.reports[welcome.worker_id] = pb.LoadReport()

    def disconnect(self, worker_id: str) -> None:
        """A worker's stream has ended."""
        self.welcomes.pop(worker_id, None)
        self.reports.pop(worker_id, None)
        self._roles.pop(worker_id, None)

    def rebook(self, before: Mapping[str, Load], after: Mapping[str, Load]) -> None:
        """A request's load changes from `before` to `after`."""
        for worker in before.keys() | after.keys():
            load = self._loads.get(worker, Load()) - before.get(worker, Load()) + after.get(worker, Load())
            if load == Load():
                self._loads.pop(worker, None)
            else:
                self._loads[worker] = load

    def kv_tokens(self) -> int | None:
        """Tokens that the smallest connected KV cache holds; None while there is none."""
        sizes = (welcome.total_blocks * welcome.block_size for welcome in self.welcomes.values())
        return min((size for size in sizes if size), default=None)

    def snapshot(self) -> Fleet:
        """Connected workers and their dispatched load."""
        return Fleet(tuple(self._worker(welcome) for welcome in self.welcomes.values()))

    def ready(self) -> bool:
        """Whether every worker that the controller has placed is connected."""
        return bool(self.addresses) and self.addresses.keys() <= self.welcomes.keys()

    def layout(self) -> str:
        """The roles of all placed workers, such as "1E1P1D"."""
        roles = Counter(address.role for address in self.addresses.values())
        return "".join(f"{roles[stage]}{stage[0].upper()}" for stage in Stage if roles[stage])

    def _worker(self, welcome: pb.Welcome) -> Worker:
        load = self._loads.get(welcome.worker_id, Load())
        return Worker(
            worker_id=welcome.worker_id,
            role=self._roles[welcome.worker_id],
            stages=frozenset(stage for value in welcome.stages if (stage := stage_from_proto(value))),
            requests=load.requests,
            tokens=load.tokens,
            images=load.images,
        )
