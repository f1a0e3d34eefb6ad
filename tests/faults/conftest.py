"""Clusters of real Ray actors that fail as the tests tell them."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.seeds import drawn_seed

sys.path.insert(0, str(Path(__file__).parent))  # the harness, which the actors import too

from fault_harness.recovery import Recovery, append, table

RECOVERIES_VARIABLE = "TRIPTYCH_RECOVERIES"


@pytest.fixture(scope="module")
def seed() -> int:
    """Another one every run."""
    return drawn_seed()


@pytest.fixture(scope="module")
def rng(seed: int) -> random.Random:
    """Fresh questions."""
    return random.Random(seed)


@pytest.fixture(autouse=True)
def _told_seed(seed: int) -> None:
    """Whichever test of a module fails, its questions can be had again."""
    print(f"seed {seed}")


@pytest.fixture(scope="session")
def note() -> Iterator[Callable[[Recovery], None]]:
    """Takes measurements: printed at the end, and kept in a file where one is asked for."""
    recoveries: list[Recovery] = []
    yield recoveries.append
    print(f"\n{table(recoveries)}")
    if file := os.environ.get(RECOVERIES_VARIABLE):
        for recovery in recoveries:
            append(Path(file), recovery)
