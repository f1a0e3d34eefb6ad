"""Random inputs of tests of models."""

import pytest
import torch

from tests.support.seeds import drawn_seed


@pytest.fixture(autouse=True)
def seed() -> int:
    """Fresh random inputs every run; the seed is printed with a failure."""
    value = drawn_seed()
    print(f"seed {value}")
    torch.manual_seed(value)
    return value
