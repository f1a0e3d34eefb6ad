"""What `triptych serve` does once its settings are read."""

import asyncio
import signal
import time

from rich.console import Console

from triptych.cli.models.checking import Report
from triptych.cli.models.mixture import mixture_lines
from triptych.cli.models.survey import survey
from triptych.cli.notes import machine_notes
from triptych.cli.progress import ProgressBars
from triptych.config.choices import AUTO
from triptych.config.resources import offload_of
from triptych.config.spec import ClusterSpec
from triptych.controller.cluster import RunningCluster, run_cluster
from triptych.core.fleet import Stage
from triptych.experts.settings import Auto, OffloadSettings
from triptych.models.progress import Progress


async def serve_until_stopped(spec: ClusterSpec) -> None:
    """Runs a cluster until SIGINT or SIGTERM, and says how to use it.

    Raises:
        TriptychError: the cluster cannot start.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    console = Console(stderr=True, highlight=False)
    begun = time.monotonic()
    for note in machine_notes():
        console.print(f"note: {note}", markup=False)
    console.print(f"starting a cluster for {spec.name} ...", markup=False)
    main = asyncio.current_task()
    assert main is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, main.cancel)
    try:

        def ready(worker: str) -> None:
            console.print(f"  {worker} is ready after {time.monotonic() - begun:.1f} s")

        if (offload := _open_budget(spec)) is not None:
            for line in await asyncio.to_thread(_expected, spec, offload, ProgressBars(console)):
                console.print(line, markup=False)
        async with run_cluster(spec, progress=ProgressBars(console), on_ready=ready) as cluster:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stopping.set)
            _announce(console, cluster, time.monotonic() - begun)
            await stopping.wait()
            console.print("stopping ...")
    except asyncio.CancelledError:
        console.print("stopped before it was ready")


def _open_budget(spec: ClusterSpec) -> OffloadSettings | None:
    """Settings of the first stage of which the program chooses how much memory experts have."""
    offloads = (offload_of(spec, stage) for stage in Stage)
    return next((offload for offload in offloads if offload is not None and isinstance(offload.budget, Auto)), None)


def _expected(spec: ClusterSpec, offload: OffloadSettings, progress: Progress) -> list[str]:
    """What the experts of a mixture come to on this machine, and how fast: measured now, for some seconds."""
    layout = spec.stages.layout if spec.stages else spec.layout
    report = survey(spec.model, spec.dtype, spec.quantization, str(layout or AUTO), None, offload, progress)
    if not isinstance(report, Report) or report.mixture is None:
        return []
    return [f"  {name:12}{text}" for name, text in mixture_lines(report.mixture)]


def _announce(console: Console, cluster: RunningCluster, seconds: float) -> None:
    console.print(
        f"{cluster.model} serves as {cluster.layout} on {cluster.address} after {seconds:.1f} s", markup=False
    )
    reachable = cluster.address.replace("0.0.0.0", "127.0.0.1")
    option = "" if reachable == "127.0.0.1:50051" else f" --address {reachable}"
    if cluster.layout.endswith("E"):  # nobody decodes: it gives embeddings
        attempt = f"triptych.client.Client({reachable!r}).embed(['Why is the sky blue?']).vectors"
    else:
        attempt = f"triptych chat{option} 'Why is the sky blue?'"
    console.print(f"try: {attempt}   or: triptych status{option}", markup=False)
