"""AdminService over the dispatcher and the fleet."""

from typing import Any

import grpc

from triptych.admin.v1 import admin_pb2 as pb
from triptych.admin.v1 import admin_pb2_grpc
from triptych.router.clock import now
from triptych.router.dispatch import Dispatcher
from triptych.router.fleet import FleetDirectory, WorkerAddress
from triptych.router.guard import Guarded
from triptych.wire.stage import stage_to_proto

Context = grpc.aio.ServicerContext[Any, Any]


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """What operators call."""

    def __init__(self, model: str, dispatcher: Dispatcher, fleet: FleetDirectory) -> None:
        self._model = model
        self._dispatcher = dispatcher
        self._fleet = fleet
        self._started = now()

    async def GetClusterStatus(
        self, request: pb.GetClusterStatusRequest, context: Context
    ) -> pb.GetClusterStatusResponse:
        """Every placed worker with its last report, and the router's totals."""
        async with Guarded(context):
            return pb.GetClusterStatusResponse(
                model=self._model,
                layout=self._fleet.layout(),
                ready=self._fleet.ready(),
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

    def _router(self) -> pb.RouterStatus:
        counters = self._dispatcher.counters
        return pb.RouterStatus(
            running_requests=self._dispatcher.running,
            max_running_requests=self._dispatcher.max_running,
            finished_requests=counters.finished,
            failed_requests=counters.failed,
            cancelled_requests=counters.cancelled,
            refused_requests=counters.refused,
            generated_tokens=counters.generated_tokens,
            awaiting_free=self._dispatcher.awaiting_free,
            uptime_ms=round((now() - self._started) * 1000),
        )

    def _worker(self, address: WorkerAddress) -> pb.WorkerStatus:
        status = pb.WorkerStatus(
            worker_id=address.worker_id,
            role=stage_to_proto(address.role),
            address=address.address,
            pid=address.pid,
            restarts=address.restarts,
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
        if address.worker_id in self._fleet.welcomes:
            return pb.WORKER_HEALTH_HEALTHY
        return pb.WORKER_HEALTH_STARTING if not address.address else pb.WORKER_HEALTH_LOST
