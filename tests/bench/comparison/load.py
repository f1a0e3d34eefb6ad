"""Times a fresh process that imports Triptych and opens builtin:smollm2: prints the seconds as a JSON line.

A process before it has left files in the page cache, and compiled kernels in their folder.
"""

import argparse
import json
import subprocess
import sys
import time

ALLOWED_SECONDS = 3.0
OPEN = "from triptych.engine import Engine; Engine('builtin:smollm2', threads=int(__import__('sys').argv[1]))"


def main() -> None:
    """Opens it twice; the second time counts."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--threads", type=int, default=2)
    command = [sys.executable, "-c", OPEN, str(options.parse_args().threads)]
    subprocess.run(command, check=True)
    begun = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = round(time.perf_counter() - begun, 3)
    print(json.dumps({"peer": "triptych", "what": "load", "seconds": seconds, "allowed_seconds": ALLOWED_SECONDS}))


if __name__ == "__main__":
    main()
