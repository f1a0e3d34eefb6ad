"""Rank 0 has the other ranks record what they do, and gets it from them."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any, Final

from triptych.core.trace import Recorder, Recording, TraceSpan
from triptych.parallel import RankLost
from triptych.parallel.channel import Hub

_ANSWERING: Final = 5.0
"""Seconds that rank 0 waits for what a rank has recorded: as long as a step may take."""


@dataclass(frozen=True, slots=True)
class Record:
    """Rank 0 to the others: record from now on."""


@dataclass(frozen=True, slots=True)
class TellRecorded:
    """Rank 0 to the others: that is enough.

    Attributes:
        trace: Number of the trace, for the answer to name it.
    """

    trace: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """Another rank to rank 0: this is what I did. It may come when rank 0 waits for it no longer."""

    trace: int
    spans: tuple[TraceSpan, ...]


class TracedRanks:
    """Rank 0's side; see `triptych.core.trace.Others`.

    Args:
        hub: Reaches the others.
        size: Ranks of the replica.
    """

    def __init__(self, hub: Hub, size: int) -> None:
        self._hub = hub
        self._others = size - 1
        self._trace = 0
        self._told: SimpleQueue[tuple[int, Recorded]] = SimpleQueue()
        hub.subscribe(Recorded, lambda rank, recorded: self._told.put((rank, recorded)))

    def begin(self) -> None:
        """The others record from the next step on."""
        self._hub.send(Record())

    def end(self) -> list[TraceSpan]:
        """What they have done; of one that is gone, or takes too long to answer, nothing."""
        self._trace += 1
        spans: list[TraceSpan] = []
        missing = self._others
        try:
            self._hub.send(TellRecorded(self._trace))
            while missing:
                rank, recorded = self._told.get(timeout=_ANSWERING)
                if recorded.trace == self._trace:
                    missing -= 1
                    spans += [replace(span, rank=rank) for span in recorded.spans]
        except (RankLost, Empty):
            pass  # the trace is of those that are there
        return spans


class TracingRank:
    """Another rank's side.

    Args:
        recorder: Of the rank.
        send: To rank 0.
    """

    def __init__(self, recorder: Recorder, send: Callable[[object], None]) -> None:
        self._recorder = recorder
        self._send = send
        self._recording: Recording | None = None

    @property
    def handlers(self) -> Mapping[type, Callable[[Any], object]]:
        """By the kind of message."""
        return {Record: lambda _: self._begin(), TellRecorded: self._end}

    def _begin(self) -> None:
        self._recorder.end()
        self._recording = self._recorder.begin(sys.maxsize, lambda: None)

    def _end(self, message: TellRecorded) -> None:
        self._recorder.end()
        spans = self._recording.spans if self._recording else ()
        self._recording = None
        self._send(Recorded(message.trace, tuple(spans)))
