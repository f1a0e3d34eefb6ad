"""The router: a gRPC server in front, links to the workers behind, the core in between."""

import asyncio
import secrets
import socket
import uuid
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from triptych.admin.v1 import admin_pb2, admin_pb2_grpc
from triptych.core.errors import FailedPrecondition
from triptych.core.plan import RoutingPolicy
from triptych.inference.v1 import inference_pb2, inference_pb2_grpc
from triptych.router.admin import AdminServicer
from triptych.router.clock import now
from triptych.router.dispatch import Dispatcher
from triptych.router.fleet import FleetDirectory, WorkerAddress
from triptych.router.inference import InferenceServicer
from triptych.router.intake import Intake
from triptych.router.links import Links
from triptych.stage.v1 import stage_pb2 as stage_pb
from triptych.wire.limits import MESSAGE_LIMITS

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
)
SPARE_RPCS = 64  # calls beside the running requests: health, status, and refusals on their way out


def require_free(address: str) -> None:
    """Refuses an address that cannot be listened on, long before anything slow is started for it.

    Raises:
        FailedPrecondition: names the address and the reason.
    """
    host, _, port = address.rpartition(":")
    try:
        for family, kind, _, _, target in socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(target)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FailedPrecondition(f"cannot listen on {address}: {reason}", field="router.grpc") from error


class Router:
    """One front door.

    Args:
        address: "host:port" to listen on; port 0 takes a free one.
        intake: Checks and tokenizes requests.
        policy: Limits of the routing rule.
        max_running: Requests that may run at once.
    """

    def __init__(self, address: str, intake: Intake, policy: RoutingPolicy, max_running: int) -> None:
        self.address = address
        self.fleet = FleetDirectory()
        self._intake = intake
        self._links = Links(uuid.uuid4().hex, self.fleet, self)
        self.dispatcher = Dispatcher(self.fleet, self._links, policy, max_running, now, secrets.randbits(31))
        self._health = HealthServicer()
        self._ready = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        # Without this two servers could share a port, and each would get half of the connections.
        self._server = grpc.aio.server(
            options=(*MESSAGE_LIMITS, ("grpc.so_reuseport", 0)), maximum_concurrent_rpcs=max_running + SPARE_RPCS
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(
            InferenceServicer(intake, self.dispatcher, self.fleet), self._server
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminServicer(intake.model, self.dispatcher, self.fleet), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> None:
        """Listens; health says NOT_SERVING until every placed worker is connected.

        Raises:
            FailedPrecondition: the address cannot be listened on.
        """
        await self._report_health()
        host = self.address.rpartition(":")[0]
        try:
            bound = self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise FailedPrecondition(f"cannot listen on {self.address}: {error}", field="router.grpc") from error
        self.address = f"{host}:{bound}"
        await self._server.start()

    async def place(self, addresses: Iterable[WorkerAddress]) -> None:
        """Tells the router where its workers are now."""
        await self._links.place(addresses)
        await self._report_health()

    async def wait_ready(self) -> None:
        """Returns when every placed worker is connected."""
        await self._ready.wait()

    async def stop(self, grace: float = 5.0) -> None:
        """Refuses new requests, gives running ones `grace` seconds, and closes."""
        await self._server.stop(grace)
        await self._links.close()
        self._intake.close()

    def connected(self, welcome: stage_pb.Welcome) -> None:
        """A worker is ready."""
        self.fleet.connect(welcome)
        self._report_soon()

    def received(self, worker_id: str, event: stage_pb.ConnectResponse) -> None:
        """A worker says something."""
        self.dispatcher.receive(worker_id, event)

    def lost(self, worker_id: str) -> None:
        """A worker is gone."""
        self.dispatcher.lose(worker_id)
        self._report_soon()

    def _report_soon(self) -> None:
        task = asyncio.create_task(self._report_health())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _report_health(self) -> None:
        """grpc.health.v1: the whole server ("") and each service."""
        ready = self.fleet.ready()
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        if ready:
            self._ready.set()
        else:
            self._ready.clear()
        for name in ("", *SERVICES):
            await self._health.set(name, status)
