"""Randomness by purpose: what one part of the world draws does not move what another part gets."""

from hashlib import sha256
from random import Random


class Dice:
    """Independent random streams of one seed.

    Args:
        seed: Of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, purpose: str) -> Random:
        """The stream of that name, from its beginning."""
        return Random(int.from_bytes(sha256(f"{self.seed}/{purpose}".encode()).digest()[:16]))
