"""Rank 0 waits until the others have their shares: as long as they get on with it, and not for ever."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from time import monotonic

from triptych.engine.ranks.messages import Loading, Ready
from triptych.models.progress import Advance
from triptych.parallel import RankLost
from triptych.parallel.channel import Hub

LAG = 60.0
"""Seconds that another rank may go on without a word, beyond the time that rank 0 took for its own share."""

_INTERVAL = 1.0
"""Seconds between two words."""


class ToldProgress:
    """See `Progress`: tells rank 0 of it. Another host may have to convert what rank 0's has converted already.

    Args:
        send: Reaches rank 0.
    """

    def __init__(self, send: Callable[[object], None]) -> None:
        self._send = send
        self._told = -_INTERVAL

    @contextmanager
    def task(self, title: str, total: int | None) -> Iterator[Advance]:
        """See `Progress.task`."""
        self._tell()
        yield lambda count: self._tell()

    def _tell(self) -> None:
        if monotonic() >= self._told + _INTERVAL:
            self._told = monotonic()
            self._send(Loading())


class Readiness:
    """Which ranks have their share of the model. Made before any of them can say so.

    Args:
        hub: Reaches them.
        size: How many ranks there are, rank 0 included.
    """

    def __init__(self, hub: Hub, size: int) -> None:
        self._hub = hub
        self._missing = set(range(1, size))
        self._answers: SimpleQueue[int | Loading | RankLost] = SimpleQueue()
        hub.subscribe(Ready, lambda rank, _: self._answers.put(rank))
        hub.subscribe(Loading, lambda _, loading: self._answers.put(loading))
        hub.on_lost(self._answers.put)

    def wait(self, since: float) -> None:
        """Returns when every rank has its share.

        Args:
            since: When rank 0, which has its own by now, and the others began to load (`time.monotonic`).

        Raises:
            RankLost: one of them is gone, could not load its share, or gets no further; the group has ended.
        """
        within = monotonic() - since + LAG
        while self._missing:
            try:
                answer = self._answers.get(timeout=within)
            except Empty:
                reason = f"ranks {sorted(self._missing)} have not gone on loading for {within:.0f} s"
                raise self._hub.blame(RankLost(reason)) from None
            match answer:
                case RankLost():
                    raise answer
                case int(rank):
                    self._missing.discard(rank)
