"""`python tests/faults/report.py RECOVERIES [PAGE]`: the recovery times of a run, into docs/reliability.md.

RECOVERIES is what `TRIPTYCH_RECOVERIES=RECOVERIES pytest tests/faults -m ''` has left behind.
"""

import datetime
import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fault_harness.recovery import insert, read, table

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def main(recoveries: Path, page: Path = PAGE) -> None:
    """Replaces what is between the page's markers."""
    day = datetime.datetime.now(tz=datetime.UTC).date()
    cores = len(os.sched_getaffinity(0))
    where = f"Measured on {day}, {cores} cores of {_processor()}, Python {platform.python_version()}."
    page.write_text(insert(page.read_text(), f"{where}\n\n{table(read(recoveries))}"))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
