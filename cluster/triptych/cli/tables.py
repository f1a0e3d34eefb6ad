"""The state of a cluster as a table, and as JSON."""

import json
from dataclasses import asdict
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from triptych.client import ClusterStatus, RouterStatus, WorkerStatus

_HEALTH_STYLES: Final = {
    "healthy": "green",
    "starting": "yellow",
    "suspect": "yellow",
    "draining": "cyan",
    "lost": "red",
    "unknown": "dim",
}
_COLUMNS: Final = ("worker", "role", "health", "running", "queued", "holds", "tokens", "memory")
_BAR: Final = 6


def cluster_table(status: ClusterStatus) -> Group:
    """A heading, one line per worker, the router's counters and the hit ratio; fits 80 columns in plain cases."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if place < 3 else "right", no_wrap=True)
    for worker in status.workers:
        table.add_row(*_row(worker))
    return Group(_heading(status), "", table, "", _counters(status.router), _reused(status.workers))


def to_json(status: ClusterStatus) -> str:
    """Every field by its name in `triptych.client.ClusterStatus`."""
    return json.dumps(asdict(status), indent=2)


def _heading(status: ClusterStatus) -> Text:
    ready = Text("ready", "green") if status.ready else Text("not ready", "yellow")
    heading = Text.assemble((status.model, "bold"), f"  {status.layout}  ", ready)
    return heading.append(f"  up {_duration(status.router.uptime_ms // 1000)}")


def _row(worker: WorkerStatus) -> tuple[str | Text, ...]:
    load = worker.load
    restarts = f" ({worker.restarts} restarts)" if worker.restarts else ""
    return (
        worker.worker_id,
        worker.role or "",
        Text(worker.health + restarts, _HEALTH_STYLES[worker.health]),
        str(load.running_requests),
        str(load.queued_requests + load.queued_images),
        _held(worker),
        str(load.generated_tokens if worker.total_blocks else load.prefilled_tokens),  # of texts that it embedded
        _size(load.resident_bytes),
    )


def _counters(router: RouterStatus) -> Text:
    return Text(
        f"router: {router.running_requests} of {router.max_running_requests} requests running, "
        f"{router.finished_requests} finished, {router.failed_requests} failed, "
        f"{router.cancelled_requests} cancelled, {router.refused_requests} refused, "
        f"{router.generated_tokens} tokens generated, {router.awaiting_free} awaiting free\n"
        f"faults: {router.replays} replays ({router.replayed_tokens} tokens computed again), "
        f"{router.waiting_requests} requests wait for a worker, {router.resumed_requests} clients came back"
    )


def _held(worker: WorkerStatus) -> Text:
    """KV blocks of a decoder; embeddings of an encode worker, which has no blocks."""
    load, total = worker.load, worker.total_blocks
    if not total:
        return Text(f"{load.held_embeddings} images ({_size(load.held_embedding_bytes)})")
    full = min(_BAR, -(-load.held_blocks * _BAR // total))
    return Text.assemble(("█" * full, "cyan"), ("░" * (_BAR - full), "dim"), f" {load.held_blocks}/{total} KV")


def _reused(workers: tuple[WorkerStatus, ...]) -> Text:
    """The hit ratio of the prefix caches, of all workers together."""
    asked = sum(worker.load.prefix_query_tokens for worker in workers)
    found = sum(worker.load.prefix_hit_tokens for worker in workers)
    ratio = f" ({found / asked:.0%})" if asked else ""
    return Text(f"prefix cache: {found} of {asked} prompt tokens found{ratio}")


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {left:02} s"
