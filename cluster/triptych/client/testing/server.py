"""The fake cluster's server."""

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


class FakeServer:
    """Serves InferenceService and AdminService; every generation follows the same script.

    Tokens of a text are its UTF-8 bytes; an image counts as `TOKENS_PER_IMAGE`. The answer to a request that wants
    log-probabilities gives -0.5 to each token.

    Args:
        script: What happens in each generation, in order.
        status: The answer of GetClusterStatus; by default a healthy 1E1P1D.

    Attributes:
        requests: Every generation asked for, oldest first.
    """

    def __init__(self, *script: Step, status: admin_pb2.GetClusterStatusResponse | None = None) -> None:
        self.requests: Final[list[GenerationInput]] = []
        self._service: Final = FakeService(script, status or healthy_status(), self.requests)
        self._server: Final = grpc.server(
            ThreadPoolExecutor(max_workers=16), options=(*MESSAGE_LIMITS, ("grpc.so_reuseport", 0))
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self._service, self._server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self._service, self._server)
        self.address: Final = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def wait_until_asked(self, timeout: float = 10.0) -> bool:
        """Whether, within `timeout` seconds, one more generation was asked for."""
        return self._service.arrived.acquire(timeout=timeout)

    def wait_until_abandoned(self, timeout: float = 10.0) -> bool:
        """Whether, within `timeout` seconds, one more request lost its client midway."""
        return self._service.abandoned.acquire(timeout=timeout)

    def stop(self) -> None:
        """Drops every connection at once, as a server that dies does."""
        self._server.stop(grace=None).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
