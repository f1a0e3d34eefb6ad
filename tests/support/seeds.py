"""Seeds of random inputs: the same in every run of a test, or others, as `TRIPTYCH_TEST_SEED` says.

Any text stands for seeds of its own. `fresh` stands for a number that the run draws and says, which brings them back.
"""

import hashlib
import os
import random
import secrets
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

import numpy as np
import pytest
import torch

VARIABLE = "TRIPTYCH_TEST_SEED"


def base_of(environ: MutableMapping[str, str]) -> str:
    """What all seeds follow from. Whoever is given this environment later, as processes are, has the same."""
    if environ.get(VARIABLE) == "fresh":
        environ[VARIABLE] = str(secrets.randbits(32))
    return environ.get(VARIABLE, "")


BASE = base_of(os.environ)
_drawn: dict[str, int] = {}
_shared: list[str] = []
"""What is being made that several tests share, the innermost last."""


def drawn_seed(bits: int = 32) -> int:
    """A seed in [0, 2**bits), bits at most 64; printed, so that a failure shows it.

    It follows from `TRIPTYCH_TEST_SEED`, the running test, or fixture of several tests, and how often that
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
    print(" ".join([f"the generators begin at {seed}", *header()]))
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_hypothesis(config: pytest.Config) -> None:
    """Its examples follow from the same text; where there is none they are derandomized."""
    if BASE and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = BASE


def header() -> list[str]:
    """What brings the seeds of this run back, for the head of pytest's report."""
    return [f"{VARIABLE}={BASE}"] if BASE else []


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
    digest = hashlib.blake2b(f"{BASE}\0{of}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - bits)
