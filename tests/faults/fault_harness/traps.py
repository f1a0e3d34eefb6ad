"""A trap in a worker's process: at the n-th time that it comes to a point, something happens to it."""

import os
import signal
import threading
from dataclasses import dataclass
from enum import StrEnum


class Point(StrEnum):
    """Where a worker can be when something happens to it."""

    ENCODE = "while it encodes"
    """Pictures pass the vision tower."""
    FETCH = "while its embeddings are fetched"
    """An encode worker is asked for them."""
    PULL = "while it fetches embeddings"
    """They have been copied out of another worker's memory."""
    CHUNK = "between two chunks of a prompt"
    """One has been computed, and there is more."""
    SEND = "while it sends KV"
    """A chunk is on its way, or half of it."""
    COPY = "while it receives KV"
    """Half of a chunk has been copied."""
    DECODE = "while it decodes"
    """A step has brought answers a token further, and nobody has been told."""


class Deed(StrEnum):
    """What happens there."""

    KILL = "kill"
    STOP = "stop"
    DAMAGE = "damage"
    """One byte arrives with one bit changed."""
    TRUNCATE = "truncate"
    """The second half does not arrive."""


@dataclass(frozen=True, slots=True)
class Trap:
    """Lets `after` visits of the point pass, then does its deed at `times` visits."""

    point: Point
    deed: Deed
    after: int = 0
    times: int = 1


class TrapDoor:
    """The trap of one process; any thread may step into it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: Trap | None = None
        self._visits = 0
        self.sprung = 0

    def arm(self, trap: Trap) -> None:
        """Sets a trap in place of the one before; visits count from now."""
        with self._lock:
            self._armed = trap
            self._visits = self.sprung = 0

    def disarm(self) -> None:
        """Takes the trap away."""
        with self._lock:
            self._armed = None

    def visit(self, point: Point) -> Deed | None:
        """What is to happen at this visit."""
        with self._lock:
            trap = self._armed
            if trap is None or trap.point is not point:
                return None
            self._visits += 1
            if not trap.after < self._visits <= trap.after + trap.times:
                return None
            self.sprung += 1
            return trap.deed


def end_or_halt(deed: Deed | None) -> None:
    """Carries out the deeds that concern the whole process."""
    if deed is Deed.KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed is Deed.STOP:
        os.kill(os.getpid(), signal.SIGSTOP)
