"""What a worker did when: recorded while somebody asks for it, and written as trace viewers read it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from triptych.core.errors import FailedPrecondition

MAX_SPANS: Final = 100_000
"""A recording ends when it is full, so that it fits a message."""


class Lane(StrEnum):
    """What runs beside one another, in the order that it is shown in."""

    COMPUTE = "compute"
    COLLECTIVES = "collectives"
    KV_SEND = "KV send"
    KV_RECEIVE = "KV receive"
    EMBEDDING_PULL = "embedding pull"
    WEIGHT_PREFETCH = "weight prefetch"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """Something that has been done.

    Attributes:
        lane: Beside what.
        name: What it was.
        start: Seconds of a monotonic clock that all processes of a host share.
        end: As well.
        size: Bytes that were moved, or rows that were computed.
        rank: Who did it.
    """

    lane: Lane
    name: str
    start: float
    end: float
    size: int = 0
    rank: int = 0


class Recording:
    """Spans of some steps; added from any thread.

    Args:
        steps: After how many it is over.
        over: Called then, once, on the thread of the last step.
    """

    def __init__(self, steps: int, over: Callable[[], object]) -> None:
        self.spans: list[TraceSpan] = []
        self.steps = 0
        self._wanted = steps
        self._over = over
        self._is_over = False

    def add(self, lane: Lane, name: str, start: float, end: float, size: int = 0) -> None:
        """Something has been done; kept while it is not over."""
        if not self._is_over and len(self.spans) < MAX_SPANS:
            self.spans.append(TraceSpan(lane, name, start, end, size))

    def step(self, name: str, start: float, end: float, rows: int) -> None:
        """A step has been computed."""
        if self._is_over:
            return
        self.add(Lane.COMPUTE, name, start, end, rows)
        self.steps += 1
        if self.steps == self._wanted or len(self.spans) >= MAX_SPANS:
            self._is_over = True
            self._over()


class Others(Protocol):
    """Processes of a worker that record what they do on demand."""

    def begin(self) -> None:
        """From now on."""

    def end(self) -> list[TraceSpan]:
        """Stops them; what they have done."""


class Recorder:
    """Where the parts of a worker find out whether to record.

    Attributes:
        recording: None unless a trace is being taken.
        others: Record with this one, where there are any.
    """

    def __init__(self) -> None:
        self.recording: Recording | None = None
        self.others: Others | None = None

    def begin(self, steps: int, over: Callable[[], object]) -> Recording:
        """Records from now on; see `Recording`.

        Raises:
            FailedPrecondition: a trace is being taken already.
        """
        if self.recording is not None:
            raise FailedPrecondition("a trace of this worker is being taken; try again when it is done")
        self.recording = Recording(steps, over)
        return self.recording

    def end(self) -> None:
        """Records no longer; idempotent."""
        self.recording = None


def chrome_trace(workers: Mapping[str, Sequence[TraceSpan]]) -> dict[str, object]:
    """A JSON object in the Trace Event Format, which chrome://tracing and ui.perfetto.dev open.

    A worker is a process of it, and each lane of each rank a thread. Times are in microseconds from the first span.

    Args:
        workers: Spans by worker, their times of one clock.
    """
    first = min((span.start for spans in workers.values() for span in spans), default=0.0)
    events: list[dict[str, object]] = []
    for pid, (worker_id, spans) in enumerate(workers.items()):
        events.append(_named("process_name", pid, 0, worker_id))
        rows = {(span.rank, span.lane) for span in spans}
        events += [_named("thread_name", pid, _row(*row), _title(*row, rows)) for row in sorted(rows, key=_place)]
        events += [_event(pid, span, first) for span in sorted(spans, key=lambda span: span.start)]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _event(pid: int, span: TraceSpan, first: float) -> dict[str, object]:
    return {
        "ph": "X",
        "pid": pid,
        "tid": _row(span.rank, span.lane),
        "name": span.name,
        "cat": span.lane.value,
        "ts": round((span.start - first) * 1e6, 3),
        "dur": round((span.end - span.start) * 1e6, 3),
        "args": {"rows" if span.lane is Lane.COMPUTE else "bytes": span.size},
    }


def _named(kind: str, pid: int, tid: int, name: str) -> dict[str, object]:
    return {"ph": "M", "pid": pid, "tid": tid, "name": kind, "args": {"name": name}}


def _title(rank: int, lane: Lane, rows: Iterable[tuple[int, Lane]]) -> str:
    return f"{lane} of rank {rank}" if any(other for other, _ in rows) else lane


def _place(row: tuple[int, Lane]) -> int:
    return _row(*row)


def _row(rank: int, lane: Lane) -> int:
    return rank * len(Lane) + list(Lane).index(lane)
