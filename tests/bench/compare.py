#!/usr/bin/env python
"""Runs every installed peer and Triptych on the same work, one after the other, and writes a markdown table.

    python tests/bench/compare.py                        everything once; about ten minutes
    python tests/bench/compare.py --repeat 3             three rounds, the median of each round's ratio
    python tests/bench/compare.py --only bf16-b1,memory  some rows; or some contestants: --only vllm,triptych-bf16
    python tests/bench/compare.py --from FILE            the table again, from saved results

Peers are looked for in $PEERS_HOME (by default ~/.cache/triptych-peers), where tests/bench/peers/setup.sh puts them;
one that is missing leaves its cells empty. Run it on a quiet machine: every thread that others use is taken from both
sides, but not evenly.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves the script's own folder out

from comparison.contestants import Contestant, contestants
from comparison.rows import ROWS, Figures, figures, judge
from comparison.table import page

from triptych.models.cache import cache_directory


def main() -> None:
    """Measures, unless old results are given, and prints the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeat", type=int, default=1, help="rounds, each with every contestant")
    options.add_argument("--only", default="", help="rows or contestants, separated by commas")
    options.add_argument("--threads", type=int, default=2, help="threads of every contestant")
    options.add_argument("--results", type=Path, help="file of JSON lines to append to; by default one in the cache")
    options.add_argument("--from", dest="saved", type=Path, help="read results instead of measuring")
    options.add_argument("--table", type=Path, help="write the tables there too")
    given = options.parse_args()
    path: Path = given.saved or given.results or _default_path()
    if given.saved is None:
        from comparison.checkpoint import prepare

        entrants = contestants(prepare(), given.threads)
        _measure(_chosen(entrants, given.only), given.repeat, path)
        print(f"results: {path}\n", file=sys.stderr)
    written = _tables(_read(path))
    print(written)
    if given.table:
        given.table.write_text(written + "\n", encoding="utf-8")


def _chosen(entrants: Sequence[Contestant], only: str) -> list[Contestant]:
    """Those whom --only names, by themselves or through a row."""
    if not only:
        return list(entrants)
    rows, names = {row.key: row.contestants for row in ROWS}, {entrant.name for entrant in entrants}
    wanted: set[str] = set()
    for word in only.split(","):
        if word not in rows and word not in names:
            sys.exit(f"error: --only takes {', '.join([*rows, *sorted(names)])}; got {word!r}")
        wanted |= rows.get(word, {word})
    return [entrant for entrant in entrants if entrant.name in wanted]


def _measure(entrants: Sequence[Contestant], rounds: int, path: Path) -> None:
    first = 1 + max((entry["round"] for entry in _read(path)), default=0)
    for number in range(first, first + rounds):
        for entrant in entrants:
            print(f"round {number}: {entrant.name}", file=sys.stderr, flush=True)
            _save(path, {"round": number, "contestant": entrant.name}, _lines(entrant))


def _lines(entrant: Contestant) -> list[dict[str, Any]]:
    """What it measured; a line with `missing` where it could not."""
    if not entrant.installed:
        return [{"missing": f"not installed ({entrant.program} does not exist)"}]
    lines: list[dict[str, Any]] = []
    try:
        lines.extend(entrant.run())
    except (ChildProcessError, subprocess.TimeoutExpired) as error:
        lines.append({"missing": str(error)})
    return lines


def _save(path: Path, head: dict[str, Any], lines: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({**head, **line}) + "\n" for line in lines)


def _read(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def _tables(entries: Sequence[dict[str, Any]]) -> str:
    rounds: dict[int, dict[tuple[str, str], float]] = {}
    notes: dict[str, str] = {}
    for entry in entries:
        name = entry["contestant"]
        if "missing" in entry:
            notes[name] = entry["missing"]
        found = rounds.setdefault(entry["round"], {})
        found |= {(name, figure): value for figure, value in figures(entry)}
    every: list[Figures] = list(rounds.values())
    return page([judge(row, every) for row in ROWS], every, notes, f"{platform.machine()}, {_cpu()}")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def _default_path() -> Path:
    return cache_directory() / "bench" / f"comparison-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"


if __name__ == "__main__":
    main()
