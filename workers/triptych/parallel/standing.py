"""Whether the groups of a rank still stand."""

import threading
import time
from collections.abc import Callable

from triptych.parallel.lost import RankLost


class Standing:
    """Shared by the groups of one rank: with one of them they all end, for the first reason given.

    Args:
        patience: Seconds after which nccl gives a call up. The kernels behind it go on then, with whatever is there.
        clock: Monotonic seconds.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lost: RankLost | None = None
        self._patience = patience
        self._clock = clock
        self._since: float | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises the reason why the groups have ended, if they have."""
        if self.lost:
            raise RankLost(self.lost.message)

    def end(self, reason: RankLost) -> RankLost:
        """Ends the groups, and gives the reason why: this one, or an earlier one."""
        with self._lock:
            self.lost = self.lost or reason
            return self.lost

    def enqueued(self) -> None:
        """A call has been put on a GPU's stream, and will be over when what comes behind it is."""
        if self._since is None:
            self._since = self._clock()

    def check_enqueued(self) -> None:
        """What came behind is over: raises where some of the calls may have been given up, not done."""
        since, self._since = self._since, None
        if since is None:
            return
        if self._clock() - since >= self._patience:
            self.end(RankLost(f"calls on the GPU took {self._patience:g} s: another rank has not come in time"))
        self.check()
