from triptych.core.generation import FinishReason, PositionLogprobs, TokenLogprob
from triptych.core.usage import Span, Usage
from triptych.inference.v1 import sampling_pb2
from triptych.wire.generation import (
    finish_reason_from_proto,
    finish_reason_to_proto,
    logprobs_from_proto,
    logprobs_to_proto,
    timeline_from_proto,
    timeline_to_proto,
    usage_from_proto,
    usage_to_proto,
)


def test_finish_reasons_survive_the_wire() -> None:
    for reason in (*FinishReason, None):
        assert finish_reason_from_proto(finish_reason_to_proto(reason)) is reason
    assert finish_reason_to_proto(None) == sampling_pb2.FINISH_REASON_UNSPECIFIED


def test_logprobs_survive_the_wire() -> None:
    positions = (
        PositionLogprobs(-0.5, (TokenLogprob(7, -0.5, b" a"), TokenLogprob(9, -1.25, b"\xe4")), b" a"),
        PositionLogprobs(-3.0),
    )
    assert logprobs_from_proto(logprobs_to_proto(positions)) == positions


def test_usage_and_timelines_survive_the_wire() -> None:
    usage = Usage(20, 5, 16)
    timeline = (Span("queue", "", 0, 10), Span("prefill", "prefill-0", 10, 2**40))
    assert usage_from_proto(usage_to_proto(usage)) == usage
    assert timeline_from_proto(timeline_to_proto(timeline)) == timeline
