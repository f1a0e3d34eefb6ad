"""Times a fresh process from its start until it has opened builtin:smollm2: prints the seconds as a JSON line.

A process before it has left files in the page cache, and compiled kernels in their folder.
"""

import argparse
import json
import subprocess
import sys
import time

ALLOWED_SECONDS = 3.0
OPEN = """
import sys
from triptych.engine import Engine
engine = Engine("builtin:smollm2", threads=int(sys.argv[1]))
print("open", flush=True)
"""


def main() -> None:
    """Opens it twice; the second time counts."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--threads", type=int, default=2)
    threads = options.parse_args().threads
    _seconds(threads)
    line = {"peer": "triptych", "what": "load", "seconds": _seconds(threads), "allowed_seconds": ALLOWED_SECONDS}
    print(json.dumps(line))


def _seconds(threads: int) -> float:
    """Of the interpreter, all imports and the model; how the process ends is not part of it."""
    begun = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", OPEN, str(threads)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        opened = process.stdout.readline() == "open\n"
        seconds = time.perf_counter() - begun
    if not opened or process.returncode:
        sys.exit(f"builtin:smollm2 could not be opened: exit status {process.returncode}")
    return round(seconds, 3)


if __name__ == "__main__":
    main()
