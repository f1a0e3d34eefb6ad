"""The state of a cluster, as its router and controller report it."""

from dataclasses import dataclass
from typing import Final, Literal

from triptych.admin.v1 import admin_pb2 as pb
from triptych.client.expert_balance import ExpertBalance, balance_from_proto
from triptych.client.expert_offload import ExpertOffload, offload_from_proto
from triptych.core.fleet import Stage
from triptych.stage.v1 import stage_pb2
from triptych.wire.stage import stage_from_proto

Health = Literal["starting", "healthy", "suspect", "draining", "lost", "unknown"]

_HEALTH: Final[dict[pb.WorkerHealth.ValueType, Health]] = {
    pb.WORKER_HEALTH_STARTING: "starting",
    pb.WORKER_HEALTH_HEALTHY: "healthy",
    pb.WORKER_HEALTH_SUSPECT: "suspect",
    pb.WORKER_HEALTH_DRAINING: "draining",
    pb.WORKER_HEALTH_LOST: "lost",
}


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What a worker holds now, and has done since it started. Queues and blocks are counts, sizes are bytes.

    Of `prefix_query_tokens` prompt tokens that were looked up in the prefix cache, `prefix_hit_tokens` were found.
    `open_leases` are reservations that wait for their KV; `runnable_requests` could be computed for at once.
    """

    running_requests: int
    queued_requests: int
    queued_tokens: int
    queued_images: int
    held_blocks: int
    free_blocks: int
    held_embeddings: int
    held_embedding_bytes: int
    steps: int
    step_messages: int
    generated_tokens: int
    prefilled_tokens: int
    encoded_images: int
    resident_bytes: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    runnable_requests: int
    open_leases: int


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One stage worker.

    Attributes:
        incarnation: Changes whenever the process is started again.
        role: What the router sends it; None before it has been given one.
        stages: What it is able to do.
        total_blocks: KV blocks of `block_size` tokens each; 0 for an encode worker.
        rank_pids: Processes that compute the model together, from rank 0 on, which is `pid`; empty where it is one.
        last_end: Why it had to be started again, the last time.
        experts: How even the loads of its ranks are; None where they have no experts to move.
        offload: What it has read of experts; None where all of them are in memory.
    """

    worker_id: str
    incarnation: str
    role: Stage | None
    stages: tuple[Stage, ...]
    health: Health
    address: str
    pid: int
    restarts: int
    total_blocks: int
    block_size: int
    load: WorkerLoad
    rank_pids: tuple[int, ...] = ()
    last_end: str = ""
    experts: ExpertBalance | None = None
    offload: ExpertOffload | None = None


@dataclass(frozen=True, slots=True)
class RouterStatus:
    """The router's own counters.

    Attributes:
        awaiting_free: Ended requests that a worker has not let go of yet.
        replays: Attempts that were begun anew after a worker was lost, failed or drained.
        replayed_tokens: Tokens that were computed a second time because of that.
        resumed_requests: Clients that came back to their answer.
        waiting_requests: Requests that lost their workers and wait for others.
    """

    running_requests: int
    max_running_requests: int
    finished_requests: int
    failed_requests: int
    cancelled_requests: int
    refused_requests: int
    generated_tokens: int
    awaiting_free: int
    uptime_ms: int
    replays: int
    replayed_tokens: int
    resumed_requests: int
    waiting_requests: int


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """Everything at one moment; `layout` is written like "1E1P1D"."""

    model: str
    layout: str
    ready: bool
    workers: tuple[WorkerStatus, ...]
    router: RouterStatus


def cluster_from_proto(message: pb.GetClusterStatusResponse) -> ClusterStatus:
    """The status that an AdminService sent."""
    return ClusterStatus(
        model=message.model,
        layout=message.layout,
        ready=message.ready,
        workers=tuple(_worker(worker) for worker in message.workers),
        router=_router(message.router),
    )


def _worker(message: pb.WorkerStatus) -> WorkerStatus:
    return WorkerStatus(
        worker_id=message.worker_id,
        incarnation=message.incarnation,
        role=stage_from_proto(message.role),
        stages=tuple(stage for value in message.stages if (stage := stage_from_proto(value))),
        health=_HEALTH.get(message.health, "unknown"),
        address=message.address,
        pid=message.pid,
        restarts=message.restarts,
        total_blocks=message.total_blocks,
        block_size=message.block_size,
        load=_load(message.load),
        rank_pids=tuple(message.rank_pids),
        last_end=message.last_end,
        experts=balance_from_proto(message.load.experts) if message.load.HasField("experts") else None,
        offload=offload_from_proto(message.load.offload) if message.load.HasField("offload") else None,
    )


def _load(message: stage_pb2.LoadReport) -> WorkerLoad:
    return WorkerLoad(**{name: getattr(message, name) for name in WorkerLoad.__dataclass_fields__})


def _router(message: pb.RouterStatus) -> RouterStatus:
    return RouterStatus(**{name: getattr(message, name) for name in RouterStatus.__dataclass_fields__})
