"""One worker in this process: its panel behind a gRPC server on an event loop of its own."""

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import Future

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from triptych.core.errors import describe
from triptych.core.orphan import Solitude
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc
from triptych.stages.build import build_panel
from triptych.stages.meeting import Convener
from triptych.stages.panel import WorkerPanel
from triptych.stages.service import StageServicer
from triptych.stages.settings import StageSettings
from triptych.stages.text_panel import TextPanel
from triptych.wire.address import host_port
from triptych.wire.limits import STAGE_MESSAGE_LIMITS
from triptych.wire.liveness import HEARTBEAT_SECONDS, KEEPALIVE_SERVER

REPORT_SECONDS = 0.1  # how often a changed load is reported
REFRESH_REPORTS = round(HEARTBEAT_SECONDS / REPORT_SECONDS)  # and an unchanged one

logger = logging.getLogger(__name__)


class StageHost:
    """Runs a worker until `stop`.

    Args:
        settings: What to run.
        convener: Of the worker's other ranks, where there are any.

    Attributes:
        ended: Done when the worker no longer serves: with the reason why it could not go on, empty after `stop`.

    Raises:
        TriptychError: the model or the settings are at fault.
    """

    def __init__(self, settings: StageSettings, convener: Convener | None = None) -> None:
        self.panel: WorkerPanel | TextPanel = _build(settings, convener)
        self._host = settings.host
        self._servicer = StageServicer(self.panel, self._drain)
        self._health = HealthServicer()
        self._solitude = Solitude(settings.orphan_seconds)
        self._loop = asyncio.new_event_loop()
        self._stopping: asyncio.Event = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"grpc {settings.worker_id}", daemon=True)
        self._address: Future[str] = Future()
        self._reason = ""
        self.ended: Future[str] = Future()
        if convener:
            convener.hub.on_lost(lambda lost: self.fail(lost.message))

    def start(self) -> str:
        """Begins to serve; returns "host:port"."""
        self.panel.start(lambda error: self.fail(describe(error)))
        self._thread.start()
        return self._address.result()

    def stop(self) -> None:
        """Closes every stream and ends all threads."""
        self._end()
        self._thread.join()
        self.panel.stop()

    def fail(self, reason: str) -> None:
        """Ends the worker's service because it cannot go on; of several reasons the first counts. From any thread."""
        if self.ended.done():
            return
        logger.warning("the worker ends: %s", reason)
        self._reason = self._reason or reason
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
            self._loop.call_soon_threadsafe(self._stopping.set)

    def _run(self) -> None:
        try:
            # A Runner lets cancelled streams end before it closes the loop.
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except Exception as error:
            if not self._address.done():
                self._address.set_exception(error)
            raise
        finally:
            self.ended.set_result(self._reason)

    async def _serve(self) -> None:
        server = grpc.aio.server(options=(*STAGE_MESSAGE_LIMITS, *KEEPALIVE_SERVER, ("grpc.so_reuseport", 0)))
        stage_pb2_grpc.add_StageServiceServicer_to_server(self._servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        port = server.add_insecure_port(host_port(self._host, 0))
        await server.start()
        reports = asyncio.create_task(self._report())
        self._address.set_result(host_port(self._host, port))
        await self._stopping.wait()
        reports.cancel()
        await server.stop(0)

    async def _drain(self) -> None:
        """Readiness goes first, so that nobody is sent here any more by the time that something is refused."""
        await self._health.enter_graceful_shutdown()
        self.panel.drain()
        self._send(self.panel.report())

    async def _report(self) -> None:
        """Tells every router of a changed load soon, and of an unchanged one now and then; ends an orphan."""
        last, age = pb.LoadReport(), 0
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            self._end_if_orphaned(self._loop.time())
            report = self.panel.report()
            age += 1
            if report != last or age >= REFRESH_REPORTS:
                last, age = report, 0
                self._send(report)

    def _send(self, report: pb.LoadReport) -> None:
        for session in self._servicer.sessions:
            session.send(pb.ConnectResponse(load_report=report))

    def _end_if_orphaned(self, now: float) -> None:
        self._solitude = self._solitude.observe(len(self._servicer.sessions), now)
        if self._solitude.over(now):
            self.fail(f"no router for {self._solitude.limit:g} seconds")


def _build(settings: StageSettings, convener: Convener | None) -> WorkerPanel | TextPanel:
    try:
        return build_panel(settings, convener)
    except Exception:
        if convener:
            convener.close()  # or the others would wait
        raise
