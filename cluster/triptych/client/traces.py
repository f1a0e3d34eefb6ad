"""Traces of workers as operators ask for them: pure functions that both clients share."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from triptych.admin.v1 import admin_pb2 as pb
from triptych.core.trace import TraceSpan
from triptych.wire.request import sending
from triptych.wire.trace import spans_from_proto

TRACE_SECONDS: Final = 20.0
"""What a cluster may take on top for its answer."""


@dataclass(frozen=True, slots=True)
class WorkerTrace:
    """What a worker did while it was watched.

    Attributes:
        worker_id: Which.
        steps: Those it has computed.
        spans: What it did when, in seconds since 1970.
    """

    worker_id: str
    steps: int
    spans: tuple[TraceSpan, ...]


def trace_request(worker_ids: Iterable[str], steps: int, within: float) -> pb.TraceRequest:
    """The message that asks for traces.

    Raises:
        InvalidArgument: `steps` is no int32, or `within` no number of seconds.
    """
    with sending("steps"):
        request = pb.TraceRequest(worker_ids=worker_ids, steps=steps)
    with sending("within"):
        request.timeout_ms = round(within * 1000)
    return request


def traces_from_proto(message: pb.TraceResponse) -> tuple[WorkerTrace, ...]:
    """What an AdminService has recorded."""
    return tuple(
        WorkerTrace(worker.worker_id, worker.trace.steps, tuple(spans_from_proto(worker.trace)))
        for worker in message.workers
    )
