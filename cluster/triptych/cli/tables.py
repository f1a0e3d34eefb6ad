"""The state of a cluster as a table, and as JSON."""

import json
from dataclasses import asdict
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from triptych.client import ClusterStatus, ExpertBalance, ExpertOffload, RouterStatus, WorkerStatus

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
    ends = [Text(f"{w.worker_id} was started again: {w.last_end}", "yellow") for w in status.workers if w.last_end]
    balances = [Text(balance_line(w.worker_id, w.experts)) for w in status.workers if w.experts]
    offloads = [Text(offload_line(w.worker_id, w.offload)) for w in status.workers if w.offload]
    below = (_counters(status.router), _reused(status.workers), *balances, *offloads)
    return Group(_heading(status), "", table, "", *ends, *below)


def balance_line(worker_id: str, balance: ExpertBalance) -> str:
    """How even the loads of a worker's ranks are, mean and worst of its layers."""
    moving = ", experts are moving" if balance.moving else ""
    known = [(layer.now, layer.layer) for layer in balance.layers if layer.now is not None]
    if not known:
        return f"{worker_id}: balancedness not known before loads are counted{moving}"
    mean = sum(now for now, _ in known) / len(known)
    worst, layer = min(known)
    return f"{worker_id}: balancedness {mean:.3f}, worst {worst:.3f} in layer {layer}{moving}"


def offload_line(worker_id: str, offload: ExpertOffload) -> str:
    """What of a worker's experts was there, and what the others cost a step."""
    steps = max(offload.steps, 1)
    match offload.prefetch, offload.switched_off:
        case "none", _:
            ahead = "nothing read in advance"
        case name, True:
            ahead = f"{name} off: it did not pay"
        case name, False:
            ahead = f"{name} on"
    failed = f", {offload.failed_reads} READS FAILED" if offload.failed_reads else ""
    return (
        f"{worker_id}: {_size(offload.pool_bytes)} of experts, {offload.hit_ratio:.1%} of those asked for there; "
        f"a step reads {offload.reads / steps:.1f} ({offload.read_bytes / steps / 2**20:.1f} MiB) "
        f"and waits {offload.stall_us / steps / 1000:.1f} ms; {ahead}{failed}"
    )


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
    ranks = f" ×{len(worker.rank_pids)}" if worker.rank_pids else ""
    return (
        f"{worker.worker_id}{ranks}",
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
