"""Runs the loads on a cluster and shows what came of them."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from triptych.cli.bench.serve.loops import SystemClock
from triptych.cli.bench.serve.plot import draw
from triptych.cli.bench.serve.report import as_line, load_name, table
from triptych.cli.bench.serve.runs import Load, Run, run_all
from triptych.cli.bench.serve.sender import Sender
from triptych.cli.bench.serve.summary import Slo
from triptych.client import AsyncClient, ImagePart


@dataclass(frozen=True, slots=True)
class Target:
    """The cluster under load.

    Attributes:
        address: HOST:PORT; None takes the client's default.
        model: Its name there; empty for the one that is served.
        timeout: Seconds until the deadline of each request; None means none.
    """

    address: str | None
    model: str
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Output:
    """Where results go: JSON lines or a table on standard output, and a picture where a path is given."""

    json: bool
    plot: Path | None


def bench_cluster(
    target: Target, loads: Sequence[Load], pictures: Sequence[ImagePart], slo: Slo, output: Output, seed: int
) -> None:
    """Runs the loads in turn.

    Raises:
        TriptychError: the cluster does not answer the first request, or the plot cannot be written.
    """
    runs = asyncio.run(_run(target, loads, pictures, slo, output, seed))
    if not output.json:
        console = Console(highlight=False)
        console.print(f"seed {seed}; latencies are p50 / p95 / p99")
        console.print(table(runs))
    if output.plot is not None:
        draw(runs, output.plot)


async def _run(
    target: Target, loads: Sequence[Load], pictures: Sequence[ImagePart], slo: Slo, output: Output, seed: int
) -> list[Run]:
    notes = Console(stderr=True, highlight=False)
    runs: list[Run] = []
    async with AsyncClient(target.address, timeout=target.timeout) as client:
        async for run in run_all(loads, Sender(client, target.model, pictures), SystemClock(), slo):
            runs.append(run)
            if output.json:
                print(json.dumps(as_line(run, seed)), flush=True)
            else:
                notes.print(f"{load_name(run.load)}: {run.summary.requests} requests in {run.summary.seconds:.1f} s")
    return runs
