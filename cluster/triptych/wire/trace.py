"""Spans of a trace ↔ protobuf. On the wire their clock is the wall's, so that those of several hosts fit together."""

from collections.abc import Iterable

from triptych.core.trace import Lane, TraceSpan
from triptych.stage.v1 import stage_pb2 as pb

_LANES = frozenset(Lane)


def trace_to_proto(spans: Iterable[TraceSpan], steps: int, since: float) -> pb.StepTrace:
    """What a worker has recorded; `since` is the time of the wall when the spans' clock was 0, in seconds."""
    return pb.StepTrace(spans=[_span_to_proto(span, since) for span in spans], steps=steps)


def spans_from_proto(trace: pb.StepTrace) -> list[TraceSpan]:
    """In seconds since 1970; what runs in lanes that this version does not know is left out."""
    return [_span_from_proto(span) for span in trace.spans if span.lane in _LANES]


def _span_to_proto(span: TraceSpan, since: float) -> pb.Span:
    return pb.Span(
        lane=span.lane,
        name=span.name,
        start_ns=round((since + span.start) * 1e9),
        duration_ns=round((span.end - span.start) * 1e9),
        size=span.size,
        rank=span.rank,
    )


def _span_from_proto(span: pb.Span) -> TraceSpan:
    start = span.start_ns / 1e9
    return TraceSpan(Lane(span.lane), span.name, start, start + span.duration_ns / 1e9, span.size, span.rank)
