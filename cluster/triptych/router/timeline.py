"""A request's way through the stages, drawn from arrival times here and durations measured by the workers.

Only durations cross the wire, so the workers' clocks need not agree.
"""

from collections.abc import Iterator

from triptych.core.usage import Span
from triptych.stage.v1 import stage_pb2 as pb


class Timeline:
    """Collects the spans of one request.

    Args:
        now: Seconds on the router's monotonic clock, when the request was accepted.
    """

    def __init__(self, now: float) -> None:
        self._origin = now
        self._sent: dict[str, float] = {}
        self._first_token: float | None = None
        self._lost: float | None = None
        self._spans: list[Span] = []

    def dispatched(self, now: float) -> None:
        """The request got its workers."""
        self._add("queue", "", self._origin, now)

    def sent(self, stage: str, now: float) -> None:
        """A command went to a stage."""
        self._sent[stage] = now

    def encoded(self, worker: str, times: pb.StageTimes, now: float) -> None:
        """An encode worker has answered."""
        self._backwards(worker, now, (("encode", times.input_us + times.compute_us),))

    def reserved(self, worker: str, now: float) -> None:
        """The decode worker has answered."""
        self._add("reserve", worker, self._sent.get("reserve", now), now)

    def replayed(self, now: float) -> None:
        """An attempt has ended and the next one begins."""
        self._lost = now if self._lost is None else self._lost

    def prefilled(self, worker: str, times: pb.StageTimes, now: float) -> None:
        """The first token of an attempt is here."""
        self._backwards(
            worker, now, (("prefill", times.compute_us), ("wait", times.queue_us), ("embeddings", times.input_us))
        )
        self._made_up(worker, now)
        if self._first_token is None:
            self._first_token = now
            self._add("first token", "", self._origin, now)

    def embedded(self, worker: str, times: pb.StageTimes, now: float) -> None:
        """The vectors of texts are here."""
        self._backwards(worker, now, (("embed", times.compute_us), ("wait", times.queue_us)))
        self._made_up(worker, now)

    def transferred(self, worker: str, duration_us: int, now: float) -> None:
        """The decode worker has all KV."""
        self._backwards(worker, now, (("kv transfer", duration_us),))

    def finish(self, worker: str, now: float) -> tuple[Span, ...]:
        """All spans, by start."""
        if self._first_token is not None:
            self._add("decode", worker, self._first_token, now)
        return tuple(sorted(self._kept(), key=lambda span: (span.start_us, span.name == "first token")))

    def _made_up(self, worker: str, now: float) -> None:
        if self._lost is not None:
            self._add("replay", worker, self._lost, now)
            self._lost = None

    def _kept(self) -> Iterator[Span]:
        return (
            span
            for span in self._spans
            if span.name != "wait" and not (span.name == "embeddings" and not span.duration_us)
        )

    def _backwards(self, worker: str, end: float, parts: tuple[tuple[str, int], ...]) -> None:
        """Lays parts that followed each other one before the other, the last one first, ending at `end`."""
        for name, duration_us in parts:
            start = max(self._origin, end - duration_us / 1e6)
            self._add(name, worker, start, end)
            end = start

    def _add(self, name: str, worker: str, start: float, end: float) -> None:
        self._spans.append(
            Span(name, worker, round((start - self._origin) * 1e6), max(0, round((end - start) * 1e6)))
        )
