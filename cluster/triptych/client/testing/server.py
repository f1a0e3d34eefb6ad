"""The fake cluster's server."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

import grpc

from triptych.admin.v1 import admin_pb2, admin_pb2_grpc
from triptych.client.testing.script import Step, healthy_status
from triptych.client.testing.service import FakeService
from triptych.core.inputs import GenerationInput
from triptych.inference.v1 import inference_pb2_grpc
from triptych.wire.limits import MESSAGE_LIMITS
from triptych.wire.liveness import KEEPALIVE_SERVER


class FakeServer:
    """Serves InferenceService and AdminService; every generation follows the same script.

    A client that comes back for the rest of an answer gets what follows the tokens that it has.

    Tokens of a text are its UTF-8 bytes; an image counts as `TOKENS_PER_IMAGE`. The answer to a request that wants
    log-probabilities gives -0.5 to each token.

    Args:
        script: What happens in each generation, in order.
        status: The answer of GetClusterStatus; by default a healthy 1E1P1D.

    Attributes:
        requests: Every generation asked for, oldest first; one that comes back is there again, with `resume`.
    """

    def __init__(self, *script: Step, status: admin_pb2.GetClusterStatusResponse | None = None) -> None:
        self.requests: Final[list[GenerationInput]] = []
        self._service: Final = FakeService(script, status or healthy_status(), self.requests, self._restart_soon)
        self._restarting = threading.Lock()
        self._server, port = self._listen("127.0.0.1:0")
        self.address: Final = f"127.0.0.1:{port}"

    def wait_until_asked(self, timeout: float = 60.0) -> bool:
        """Whether, within `timeout` seconds, one more generation was asked for."""
        return self._service.arrived.acquire(timeout=timeout)

    def wait_until_abandoned(self, timeout: float = 60.0) -> bool:
        """Whether, within `timeout` seconds, one more request lost its client midway."""
        return self._service.abandoned.acquire(timeout=timeout)

    def wait_until_cancelled(self, timeout: float = 60.0) -> bool:
        """Whether, within `timeout` seconds, one more request was to be ended by its id."""
        return self._service.cancelled.acquire(timeout=timeout)

    def stop(self) -> None:
        """Drops every connection at once, as a server that dies does."""
        self._server.stop(grace=None).wait()

    def restart(self) -> None:
        """Drops every connection, forgets every request, and listens at the same address again."""
        with self._restarting:
            self._server.stop(grace=None).wait()
            self._service.memory.forget()
            self._server, _ = self._listen(self.address)

    def _restart_soon(self) -> None:
        """For a handler, on whose end a restart waits."""
        threading.Thread(target=self.restart, daemon=True).start()

    def _listen(self, address: str) -> tuple[grpc.Server, int]:
        server = grpc.server(
            ThreadPoolExecutor(max_workers=16),
            options=(*MESSAGE_LIMITS, *KEEPALIVE_SERVER, ("grpc.so_reuseport", 0)),
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self._service, server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self._service, server)
        port = server.add_insecure_port(address)
        server.start()
        return server, port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
