"""The state of a cluster in the text format of Prometheus (exposition format 0.0.4)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from triptych.client import ClusterStatus, ExpertOffload, WorkerStatus


@dataclass(frozen=True, slots=True)
class _Metric:
    """A family of samples, one for each worker that has experts on disk."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    value: Callable[[ExpertOffload], float]


_EXPERTS: Final = (
    _Metric("pool_bytes", "gauge", "Memory for experts.", lambda o: o.pool_bytes),
    _Metric("steps_total", "counter", "Passes through the layers that have experts.", lambda o: o.steps),
    _Metric("demanded_total", "counter", "Experts that layers asked for.", lambda o: o.demanded),
    _Metric("hits_total", "counter", "Of those, there since an earlier step.", lambda o: o.hits),
    _Metric("covered_total", "counter", "Of those, there or under way as read in advance.", lambda o: o.covered),
    _Metric("misses_total", "counter", "Of those, the rest.", lambda o: o.misses),
    _Metric("prefetched_total", "counter", "Experts read in advance.", lambda o: o.prefetched),
    _Metric("prefetched_used_total", "counter", "Of those, asked for by their step.", lambda o: o.used),
    _Metric("wasted_bytes_total", "counter", "Read in advance and not asked for.", lambda o: o.wasted_bytes),
    _Metric("reads_total", "counter", "Experts read.", lambda o: o.reads),
    _Metric("read_bytes_total", "counter", "Their size.", lambda o: o.read_bytes),
    _Metric("stall_seconds_total", "counter", "That steps waited for experts.", lambda o: o.stall_us / 1e6),
    _Metric("failed_reads_total", "counter", "Reads that did not give what was written.", lambda o: o.failed_reads),
    _Metric("prefetch_off", "gauge", "1 while reading in advance is given up.", lambda o: o.switched_off),
)


def metrics_text(status: ClusterStatus) -> str:
    """Counts of all workers since they started; those of a worker that starts again begin anew."""
    lines = [*_workers(status), *_router(status), *_experts(status)]
    return "\n".join(lines) + "\n"


def _workers(status: ClusterStatus) -> Iterator[str]:
    yield from _family("triptych_worker_up", "gauge", "1 where a worker takes work.")
    for worker in status.workers:
        yield _sample("triptych_worker_up", worker, worker.health in ("healthy", "suspect"))
    for name, help_text in (
        ("running_requests", "Requests that it computes for."),
        ("queued_requests", "That wait."),
    ):
        yield from _family(f"triptych_worker_{name}", "gauge", help_text)
        for worker in status.workers:
            yield _sample(f"triptych_worker_{name}", worker, getattr(worker.load, name))
    yield from _family("triptych_worker_generated_tokens_total", "counter", "Tokens that it wrote.")
    for worker in status.workers:
        yield _sample("triptych_worker_generated_tokens_total", worker, worker.load.generated_tokens)


def _router(status: ClusterStatus) -> Iterator[str]:
    for name in ("finished", "failed", "cancelled", "refused"):
        yield from _family(f"triptych_router_{name}_requests_total", "counter", f"Requests that were {name}.")
        yield f"triptych_router_{name}_requests_total {getattr(status.router, f'{name}_requests')}"


def _experts(status: ClusterStatus) -> Iterator[str]:
    if any(worker.offload for worker in status.workers):
        for metric in _EXPERTS:
            name = f"triptych_experts_{metric.name}"
            yield from _family(name, metric.kind, metric.help)
            for worker in status.workers:
                if worker.offload:
                    yield _sample(name, worker, metric.value(worker.offload))


def _family(name: str, kind: str, help_text: str) -> Iterator[str]:
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} {kind}"


def _sample(name: str, worker: WorkerStatus, value: float) -> str:
    return f'{name}{{worker="{worker.worker_id}"}} {float(value):.17g}'
