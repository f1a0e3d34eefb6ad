"""Clusters of real Ray actors that fail as the tests tell them."""

import os
import random
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the harness, which the actors import too

from fault_harness.recovery import Recovery, append, table

RECOVERIES_VARIABLE = "TRIPTYCH_RECOVERIES"


@pytest.fixture(scope="session")
def rng() -> random.Random:
    """Fresh questions every run; the seed is printed with a failure."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def note() -> Iterator[Callable[[Recovery], None]]:
    """Takes measurements: printed at the end, and kept in a file where one is asked for."""
    recoveries: list[Recovery] = []
    yield recoveries.append
    print(f"\n{table(recoveries)}")
    if file := os.environ.get(RECOVERIES_VARIABLE):
        for recovery in recoveries:
            append(Path(file), recovery)
