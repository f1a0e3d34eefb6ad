"""Seeds of random inputs: the same in every run of a test, or others every time (`TRIPTYCH_TEST_SEED=fresh`)."""

import hashlib
import os
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

BASE = os.environ.get("TRIPTYCH_TEST_SEED", "")
FRESH = BASE == "fresh"
_drawn: dict[str, int] = {}
_shared: list[str] = []
"""What is being made that several tests share, the innermost last."""


def drawn_seed(bits: int = 32) -> int:
    """A seed in [0, 2**bits), bits at most 64; printed, so that a failure shows it.

    It follows from `TRIPTYCH_TEST_SEED` (any text), the running test, or fixture of several tests, and how often that
    has drawn before, and neither from the order of tests nor from the process that one runs in.
    """
    test, _, _ = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")
    of = _shared[-1] if _shared else test
    _drawn[of] = drawn = _drawn.get(of, -1) + 1
    seed = _seed(f"{of} {drawn}", bits)
    print(f"seed {seed}")
    return seed


def seed_generators(test: str) -> None:
    """The generators that Python, numpy and torch share begin anew, so that no test sees what others drew."""
    seed = _seed(test, 32)
    print(f"the generators begin at {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def shared(fixture: str) -> Iterator[None]:
    """While what several tests share is made, it draws for itself, whichever of them is the first."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_generators(fixture)
    _drawn.pop(fixture, None)
    _shared.append(fixture)
    try:
        yield
    finally:
        _shared.pop()
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _seed(of: str, bits: int) -> int:
    if FRESH:
        return secrets.randbits(bits)
    digest = hashlib.blake2b(f"{BASE}\0{of}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - bits)
