"""Takes a trace of this worker while it serves."""

import asyncio
import time
from typing import Final

from triptych.core.errors import InvalidArgument
from triptych.core.trace import Recorder
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.trace import trace_to_proto

MAX_STEPS: Final = 10_000


async def take_trace(recorder: Recorder, request: pb.TraceRequest) -> pb.StepTrace:
    """Records until as many steps are computed as are asked for, or the time is over.

    Raises:
        InvalidArgument: no steps are asked for, or too many.
        FailedPrecondition: another trace is being taken.
    """
    if not 1 <= request.steps <= MAX_STEPS:
        raise InvalidArgument(f"steps must be 1 to {MAX_STEPS}, got {request.steps}", field="steps")
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    since = time.time() - time.monotonic()
    recording = recorder.begin(request.steps, lambda: loop.call_soon_threadsafe(over.set))
    others = recorder.others
    try:
        if others:
            await asyncio.to_thread(others.begin)
        async with asyncio.timeout(request.timeout_ms / 1000):
            await over.wait()
    except TimeoutError:
        pass  # so be it: there was less to do
    finally:
        try:
            elsewhere = await asyncio.to_thread(others.end) if others else []
        finally:
            recorder.end()
    return trace_to_proto([*recording.spans, *elsewhere], recording.steps, since)
