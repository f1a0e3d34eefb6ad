"""AdminService over the dispatcher and the fleet."""

import asyncio
from typing import Any, Final, Protocol

import grpc

from triptych.admin.v1 import admin_pb2 as pb
from triptych.admin.v1 import admin_pb2_grpc
from triptych.core.errors import InvalidArgument, NotFound, Unimplemented
from triptych.core.fleet import Stage
from triptych.core.fleet.worker import Health
from triptych.router.clock import now
from triptych.router.dispatch import Dispatcher
from triptych.router.fleet import FleetDirectory, WorkerAddress
from triptych.router.guard import Guarded
from triptych.router.tracing import trace_of
from triptych.wire.stage import stage_from_proto, stage_to_proto

Context = grpc.aio.ServicerContext[Any, Any]

HEALTH: Final = {
    Health.HEALTHY: pb.WORKER_HEALTH_HEALTHY,
    Health.SUSPECT: pb.WORKER_HEALTH_SUSPECT,
    Health.DRAINING: pb.WORKER_HEALTH_DRAINING,
    Health.DEAD: pb.WORKER_HEALTH_LOST,
}


class Operations(Protocol):
    """Whoever can change which workers there are."""

    async def drain(self, worker_id: str, timeout: float | None) -> None:  # noqa: ASYNC109 - the requests', not ours
        """Takes a worker out; what runs there is moved after `timeout` seconds, or the cluster's."""

    async def scale(self, stage: Stage, replicas: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Sets how many workers a stage has; the ids that are started, and those that are drained."""


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """What operators call.

    Attributes:
        operations: None where the workers are what they are.
    """

    def __init__(self, model: str, dispatcher: Dispatcher, fleet: FleetDirectory) -> None:
        self._model = model
        self._dispatcher = dispatcher
        self._fleet = fleet
        self._started = now()
        self.operations: Operations | None = None

    async def GetClusterStatus(
        self, request: pb.GetClusterStatusRequest, context: Context
    ) -> pb.GetClusterStatusResponse:
        """Every placed worker with its last report, and the router's totals."""
        async with Guarded(context):
            return pb.GetClusterStatusResponse(
                model=self._model,
                layout=self._fleet.layout(),
                ready=self._fleet.complete(),
                workers=[self._worker(address) for address in self._fleet.addresses.values()],
                router=self._router(),
            )

    async def CancelGeneration(
        self, request: pb.CancelGenerationRequest, context: Context
    ) -> pb.CancelGenerationResponse:
        """Ends a running request."""
        async with Guarded(context):
            self._dispatcher.cancel(request.request_id)
        return pb.CancelGenerationResponse()

    async def DrainWorker(self, request: pb.DrainWorkerRequest, context: Context) -> pb.DrainWorkerResponse:
        """Takes a worker out."""
        async with Guarded(context):
            timeout = request.timeout_ms / 1000 if request.HasField("timeout_ms") else None
            await self._operations().drain(request.worker_id, timeout)
        return pb.DrainWorkerResponse()

    async def ScaleStage(self, request: pb.ScaleStageRequest, context: Context) -> pb.ScaleStageResponse:
        """Adds or takes out workers of a stage."""
        async with Guarded(context):
            stage = stage_from_proto(request.stage)
            if stage is None:
                raise InvalidArgument(f"stage must be encode, prefill or decode, got {request.stage}", field="stage")
            started, drained = await self._operations().scale(stage, request.replicas)
            return pb.ScaleStageResponse(started=started, drained=drained)

    async def BalanceExperts(self, request: pb.BalanceExpertsRequest, context: Context) -> pb.BalanceExpertsResponse:
        """Has workers move experts among their ranks."""
        async with Guarded(context):
            told = self._fleet.balancing(request.worker_ids)
            for worker_id in told:
                self._dispatcher.balance_experts(worker_id)
        return pb.BalanceExpertsResponse(worker_ids=told)

    async def Trace(self, request: pb.TraceRequest, context: Context) -> pb.TraceResponse:
        """Has workers record what they do, all at once."""
        async with Guarded(context):
            if not request.timeout_ms:
                raise InvalidArgument("within must be more than 0 seconds", field="within")
            connected = [worker_id for worker_id in self._fleet.addresses if worker_id in self._fleet.welcomes]
            for worker_id in request.worker_ids:
                if worker_id not in connected:
                    there = ", ".join(connected)
                    raise NotFound(f"there is no worker {worker_id!r}; there are {there}", field="worker_ids")
            traces = [self._trace(worker_id, request) for worker_id in request.worker_ids or connected]
            return pb.TraceResponse(workers=await asyncio.gather(*traces))

    async def _trace(self, worker_id: str, request: pb.TraceRequest) -> pb.WorkerTrace:
        address = self._fleet.addresses[worker_id].address
        trace = await trace_of(address, request.steps, request.timeout_ms)
        return pb.WorkerTrace(worker_id=worker_id, trace=trace)

    def _operations(self) -> Operations:
        if self.operations is None:
            raise Unimplemented("this router has no controller that could change its workers")
        return self.operations

    def _router(self) -> pb.RouterStatus:
        counters = self._dispatcher.counters
        return pb.RouterStatus(
            running_requests=self._dispatcher.running,
            max_running_requests=self._dispatcher.limits.max_running,
            finished_requests=counters.finished,
            failed_requests=counters.failed,
            cancelled_requests=counters.cancelled,
            refused_requests=counters.refused,
            generated_tokens=counters.generated_tokens,
            awaiting_free=self._dispatcher.awaiting_free,
            replays=counters.replays,
            replayed_tokens=counters.replayed_tokens,
            resumed_requests=counters.resumed,
            waiting_requests=self._dispatcher.waiting,
            uptime_ms=round((now() - self._started) * 1000),
        )

    def _worker(self, address: WorkerAddress) -> pb.WorkerStatus:
        status = pb.WorkerStatus(
            worker_id=address.worker_id,
            role=stage_to_proto(address.role),
            address=address.address,
            pid=address.pid,
            restarts=address.restarts,
            rank_pids=address.rank_pids,
            last_end=address.last_end,
            health=self._health(address),
        )
        if welcome := self._fleet.welcomes.get(address.worker_id):
            status.incarnation = welcome.incarnation
            status.stages.extend(welcome.stages)
            status.total_blocks = welcome.total_blocks
            status.block_size = welcome.block_size
            status.load.CopyFrom(self._fleet.reports[address.worker_id])
        return status

    def _health(self, address: WorkerAddress) -> pb.WorkerHealth.ValueType:
        if worker := self._dispatcher.workers.get(address.worker_id):
            return HEALTH[worker.health]
        return pb.WORKER_HEALTH_STARTING if not address.address else pb.WORKER_HEALTH_LOST
