"""The router: a gRPC server in front, links to the workers behind, the core in between."""

import asyncio
import logging
import secrets
import socket
import uuid
from collections.abc import Coroutine, Iterable, Mapping

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from triptych.admin.v1 import admin_pb2, admin_pb2_grpc
from triptych.core.errors import FailedPrecondition
from triptych.core.fleet.worker import Health
from triptych.inference.v1 import inference_pb2, inference_pb2_grpc
from triptych.router.admin import AdminServicer, Operations
from triptych.router.clock import now
from triptych.router.dispatch import Dispatcher
from triptych.router.embedding import EmbeddingServicer
from triptych.router.fleet import FleetDirectory, WorkerAddress, introduction
from triptych.router.inference import InferenceServicer
from triptych.router.intake import Intake
from triptych.router.limits import RouterLimits
from triptych.router.links import Links
from triptych.router.text_intake import TextIntake
from triptych.stage.v1 import stage_pb2 as stage_pb
from triptych.wire.limits import MESSAGE_LIMITS
from triptych.wire.liveness import KEEPALIVE_SERVER

logger = logging.getLogger(__name__)

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
)
TICK_SECONDS = 0.1  # how late a deadline or a silent worker may be noticed
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
        limits: Of its requests and workers.
    """

    def __init__(self, address: str, intake: Intake | TextIntake, limits: RouterLimits) -> None:
        self.address = address
        self.fleet = FleetDirectory()
        self._intake = intake
        self._links = Links(uuid.uuid4().hex, self.fleet, self)
        self.dispatcher = Dispatcher(self._links, limits, now, secrets.randbits(24))
        self._health = HealthServicer()
        self._ready = asyncio.Event()
        self._opened = False  # the cluster has served: from now on a stage may lack one of several
        self._tasks: set[asyncio.Task[None]] = set()
        # Without this two servers could share a port, and each would get half of the connections.
        self._server = grpc.aio.server(
            options=(*MESSAGE_LIMITS, *KEEPALIVE_SERVER, ("grpc.so_reuseport", 0)),
            maximum_concurrent_rpcs=limits.max_running + SPARE_RPCS,
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(_servicer(intake, self.dispatcher), self._server)
        self._admin = AdminServicer(intake.model, self.dispatcher, self.fleet)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self._admin, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> None:
        """Listens; health says NOT_SERVING until the door is open, and whenever a stage has nobody.

        A new cluster's door opens when every placed worker is connected, that of one which is taken over when
        somebody can do the work of each stage.

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
        self._keep(self._tick())

    def take_over(self) -> None:
        """The workers have served before: one that does not answer is no reason to keep the door shut."""
        self._opened = True

    async def place(self, addresses: Iterable[WorkerAddress]) -> None:
        """Tells the router where its workers are now; one that is left out is gone for good."""
        await self._links.place(addresses)
        self.dispatcher.retain(self.fleet.addresses)
        await self._report_health()

    def operate(self, operations: Operations) -> None:
        """Says who drains and adds workers when operators ask for it."""
        self._admin.operations = operations

    async def wait_ready(self) -> None:
        """Returns when health says SERVING."""
        await self._ready.wait()

    async def stop(self, grace: float = 5.0) -> None:
        """Refuses new requests, gives running ones `grace` seconds, and closes."""
        await self._server.stop(grace)
        for task in tuple(self._tasks):
            task.cancel()
        await self._links.close()
        self._intake.close()

    def drain(self, worker_id: str, timeout: float) -> None:
        """Takes a worker out: no new work at once, and after `timeout` seconds what runs there goes on elsewhere."""
        self.dispatcher.drain(worker_id, timeout)

    def requests(self) -> Mapping[str, int]:
        """How many requests need each worker, or wait for it to give something back; none for one left out."""
        return self.dispatcher.requests()

    def health(self) -> Mapping[str, Health]:
        """What each connected worker may be given."""
        return {worker_id: worker.health for worker_id, worker in self.dispatcher.workers.items()}

    def connected(self, welcome: stage_pb.Welcome) -> None:
        """A worker is ready.

        Raises:
            FailedPrecondition: it has a role that this router does not know.
        """
        said = introduction(welcome)
        self.fleet.connect(welcome)
        self.dispatcher.connect(said)
        self._keep(self._report_health())

    def received(self, worker_id: str, incarnation: str, event: stage_pb.ConnectResponse) -> None:
        """A worker says something."""
        if event.HasField("load_report"):
            self.fleet.reports[worker_id] = event.load_report
        self.dispatcher.receive(worker_id, incarnation, event)

    def lost(self, worker_id: str) -> None:
        """A worker is gone."""
        self.fleet.disconnect(worker_id)
        self.dispatcher.lose(worker_id)
        self._keep(self._report_health())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self.dispatcher.tick()
            except Exception:  # time has to go on for the others
                logger.exception("the router's clock met an error")

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _report_health(self) -> None:
        """grpc.health.v1: the whole server ("") and each service."""
        self._opened = self._opened or self.fleet.begun()
        serving = self._opened and self.fleet.able()
        if serving:
            self._ready.set()
        else:
            self._ready.clear()
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *SERVICES):
            await self._health.set(name, status)


def _servicer(intake: Intake | TextIntake, dispatcher: Dispatcher) -> InferenceServicer | EmbeddingServicer:
    if isinstance(intake, TextIntake):
        return EmbeddingServicer(intake, dispatcher)
    return InferenceServicer(intake, dispatcher)
