"""A whole cluster with one colocated worker, and clients of another process: prints what they see as a JSON line.

The requests are those of the offline engine's decode workload: prompts of 32 tokens, answers of 128.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from triptych.config.load import make_spec
from triptych.controller.local import LocalCluster

ROUNDS = 3


def main() -> None:
    """Starts the cluster, loads it, stops it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", help="a folder or a .gguf file")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--clients", type=int, default=8)
    given = options.parse_args()
    decode = {"replicas": 1, "threads": given.threads}
    settings = {
        "model": given.model,
        "dtype": "bfloat16",
        "stages": {"decode": decode},
        "router": {"grpc": "127.0.0.1:0"},
    }
    command = [str(Path(sys.executable).with_name("triptych")), "bench", "serve", "--json"]
    command += ["--clients", str(given.clients), "--requests", str(ROUNDS * given.clients)]
    with LocalCluster(make_spec(settings)) as cluster:
        subprocess.run([*command, "--address", cluster.address, "--prompt", "32", "--output", "128"], check=True)


if __name__ == "__main__":
    main()
