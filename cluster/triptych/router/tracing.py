"""Asks a worker for a trace, beside its stream: what is large and rare does not delay commands and tokens."""

from typing import Final

import grpc

from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc
from triptych.wire.limits import STAGE_MESSAGE_LIMITS
from triptych.wire.status import error_from_rpc

_ANSWERING: Final = 10.0
"""Seconds that a worker may take on top for its answer."""


async def trace_of(address: str, steps: int, timeout_ms: int) -> pb.StepTrace:
    """What the worker at an address does until it has computed some steps or the time is over.

    Raises:
        TriptychError: it refuses, or is gone.
    """
    async with grpc.aio.insecure_channel(address, options=STAGE_MESSAGE_LIMITS) as channel:
        stub = stage_pb2_grpc.StageServiceStub(channel)
        request = pb.TraceRequest(steps=steps, timeout_ms=timeout_ms)
        try:
            response = await stub.Trace(request, timeout=timeout_ms / 1000 + _ANSWERING)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, address=address) from error
        return response.trace
