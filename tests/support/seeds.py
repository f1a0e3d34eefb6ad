"""Seeds of random inputs: the same in every run of a test, or others every time (`TRIPTYCH_TEST_SEED=fresh`)."""

import hashlib
import os
import random
import secrets

import numpy as np
import torch

BASE = os.environ.get("TRIPTYCH_TEST_SEED", "")
FRESH = BASE == "fresh"
_drawn: dict[str, int] = {}


def drawn_seed(bits: int = 32) -> int:
    """A seed in [0, 2**bits), bits at most 64.

    It follows from `TRIPTYCH_TEST_SEED` (any text), the running test and how often that test has drawn before, and
    neither from the order of tests nor from the process that one runs in.
    """
    test, _, _ = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")
    _drawn[test] = drawn = _drawn.get(test, -1) + 1
    return _seed(f"{test} {drawn}", bits)


def seed_generators(test: str) -> None:
    """The generators that Python, numpy and torch share begin anew, so that no test sees what others drew."""
    seed = _seed(test, 32)
    print(f"the generators begin at {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _seed(of: str, bits: int) -> int:
    if FRESH:
        return secrets.randbits(bits)
    digest = hashlib.blake2b(f"{BASE}\0{of}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - bits)
