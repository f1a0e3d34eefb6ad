"""What a fake cluster does, as data."""

from dataclasses import dataclass
from typing import Final

from triptych.admin.v1 import admin_pb2
from triptych.core.errors import TriptychError
from triptych.core.usage import Span
from triptych.stage.v1 import stage_pb2

MODEL: Final = "fake"
TOKENS_PER_IMAGE: Final = 16
EMBEDDING_SIZE: Final = 8
TIMELINE: Final = (
    Span("queue", "", 0, 500),
    Span("encode", "encode-0", 500, 2_000),
    Span("prefill", "prefill-0", 2_500, 10_000),
    Span("decode", "decode-0", 12_500, 40_000),
)


@dataclass(frozen=True, slots=True)
class Say:
    """Sends one token with this text; its id counts up from 0."""

    text: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Stays silent until the request is cancelled, its deadline passes or its client goes away."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Ends the request with this error."""

    error: TriptychError


@dataclass(frozen=True, slots=True)
class Break:
    """Drops the connection, once for each request. The server keeps the request for the client that comes back.

    Attributes:
        refusals: How often it is sent away first, with `Unavailable` and a `retry_after`.
    """

    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Restart:
    """Starts the server anew at its address, once for each request: every connection drops, no request is known.

    Attributes:
        refusals: How often the request is sent away first, with `Unavailable` and a `retry_after`.
    """

    refusals: int = 0


Step = Say | Hold | Fail | Break | Restart


def healthy_status() -> admin_pb2.GetClusterStatusResponse:
    """An idle cluster of one encode, one prefill and one decode worker."""
    stages = (stage_pb2.STAGE_ENCODE, stage_pb2.STAGE_PREFILL, stage_pb2.STAGE_DECODE)
    workers = [
        admin_pb2.WorkerStatus(
            worker_id=f"{name}-0",
            incarnation="1",
            role=stage,
            stages=[stage],
            health=admin_pb2.WORKER_HEALTH_HEALTHY,
            address=f"127.0.0.1:{6000 + stage}",
            pid=1000 + stage,
            total_blocks=0 if name == "encode" else 512,
            block_size=16,
            load=stage_pb2.LoadReport(free_blocks=0 if name == "encode" else 512, resident_bytes=600 * 2**20),
        )
        for name, stage in zip(("encode", "prefill", "decode"), stages, strict=True)
    ]
    router = admin_pb2.RouterStatus(max_running_requests=64, uptime_ms=90_000)
    return admin_pb2.GetClusterStatusResponse(
        model=MODEL, layout="1E1P1D", ready=True, workers=workers, router=router
    )
