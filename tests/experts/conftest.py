import random
import sys
from pathlib import Path

import pytest
import torch

from tests.support.seeds import drawn_seed

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))


@pytest.fixture(autouse=True)
def seed() -> int:
    """Everything drawn by a test comes of it."""
    seed = drawn_seed()
    print(f"seed {seed}")
    torch.manual_seed(seed)
    random.seed(seed)
    return seed
