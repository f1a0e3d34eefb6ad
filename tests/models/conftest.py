"""Random inputs of tests of models."""

import secrets

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> int:
    """Fresh random inputs every run; the seed is printed with a failure."""
    value = secrets.randbits(32)
    print(f"seed {value}")
    torch.manual_seed(value)
    return value
