"""`python faulty_cluster.py SETTINGS.yaml`: a cluster as `triptych serve` runs it, but for its actors.

Their class is `FaultyActor`, which can be made to fail. Says "ready ADDRESS" on stdout, and ends with SIGTERM.
"""

import asyncio
import logging
import signal
import sys
from pathlib import Path

from fault_harness.actor import FaultyActor

from triptych.config.load import load_spec
from triptych.controller.cluster import run_cluster
from triptych.controller.ray_runtime import RayRuntime


async def main(settings: Path) -> None:
    """Serves until SIGTERM."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    spec = load_spec(settings, {})
    async with run_cluster(
        spec, make_runtime=lambda address, cpus: RayRuntime(address, cpus, FaultyActor)
    ) as cluster:
        loop.add_signal_handler(signal.SIGTERM, stopping.set)  # Ray has put its own in its place
        print("ready", cluster.address, flush=True)
        await stopping.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main(Path(sys.argv[1])))
