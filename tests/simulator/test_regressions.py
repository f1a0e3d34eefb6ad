"""Seeds that once found a bug of the core or of its adapters; each file says which."""

import re
from pathlib import Path

import pytest

from triptych.simulator.outcome import simulate
from triptych.simulator.reading import load_scenario

FILES = sorted((Path(__file__).parent / "seeds").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_bug_stays_away(file: Path) -> None:
    seeds = re.match(r"# seeds: ([\d ]+)\n", file.read_text())
    assert seeds, f"{file.name} names no seeds in its first line"
    for seed in map(int, seeds[1].split()):
        assert simulate(load_scenario(str(file)), seed).first is None
