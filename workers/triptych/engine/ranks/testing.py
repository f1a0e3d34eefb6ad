"""Followers as threads of this process: real collectives and a real channel, without a Python for each rank."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from triptych.core.errors import TriptychError
from triptych.engine.ranks.joining import Invitation, follow


class RankThreads:
    """One thread for each invitation; see `RankProcesses`.

    Args:
        invitations: Of ranks 1 and up.
        on_end: Not called: a thread that fails tells rank 0 over the channel.
    """

    pids: tuple[int, ...] = ()

    def __init__(self, invitations: Sequence[Invitation], on_end: Callable[[str], object]) -> None:
        self._threads = [threading.Thread(target=_follow, args=(one,)) for one in invitations]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Waits for their end; they have been told."""
        for thread in self._threads:
            thread.join()

    def kill(self) -> None:
        """Waits for their end, which comes with that of the channel."""
        self.join()


def _follow(invitation: Invitation) -> None:
    with suppress(TriptychError):  # rank 0 has been told
        follow(invitation)
