"""What `triptych serve` does once its settings are read."""

import asyncio
import signal
import time

from rich.console import Console

from triptych.cli.notes import machine_notes
from triptych.cli.progress import ProgressBars
from triptych.config.spec import ClusterSpec
from triptych.controller.cluster import RunningCluster, run_cluster


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

        async with run_cluster(spec, progress=ProgressBars(console), on_ready=ready) as cluster:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stopping.set)
            _announce(console, cluster, time.monotonic() - begun)
            await stopping.wait()
            console.print("stopping ...")
    except asyncio.CancelledError:
        console.print("stopped before it was ready")


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
