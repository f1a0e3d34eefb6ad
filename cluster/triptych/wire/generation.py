"""What a generation yields, and its wire form."""

from collections.abc import Iterable
from typing import Final

from triptych.core.generation import FinishReason, PositionLogprobs, TokenLogprob
from triptych.core.usage import Span, Usage
from triptych.inference.v1 import inference_pb2, sampling_pb2

_TO_PROTO: Final = {
    FinishReason.STOP: sampling_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: sampling_pb2.FINISH_REASON_LENGTH,
}
_FROM_PROTO: Final = {value: reason for reason, value in _TO_PROTO.items()}


def finish_reason_to_proto(reason: FinishReason | None) -> sampling_pb2.FinishReason.ValueType:
    """The enum value; unspecified while the generation goes on."""
    return sampling_pb2.FINISH_REASON_UNSPECIFIED if reason is None else _TO_PROTO[reason]


def finish_reason_from_proto(value: sampling_pb2.FinishReason.ValueType) -> FinishReason | None:
    """The reason; None while the generation goes on."""
    return _FROM_PROTO.get(value)


def logprobs_to_proto(positions: Iterable[PositionLogprobs]) -> list[sampling_pb2.PositionLogprobs]:
    """One message per generated position."""
    return [
        sampling_pb2.PositionLogprobs(
            logprob=position.logprob,
            top=[
                sampling_pb2.TokenLogprob(token_id=t.token_id, logprob=t.logprob, token=t.token) for t in position.top
            ],
            token=position.token,
        )
        for position in positions
    ]


def logprobs_from_proto(messages: Iterable[sampling_pb2.PositionLogprobs]) -> tuple[PositionLogprobs, ...]:
    """One entry per generated position."""
    return tuple(
        PositionLogprobs(
            message.logprob, tuple(TokenLogprob(t.token_id, t.logprob, t.token) for t in message.top), message.token
        )
        for message in messages
    )


def usage_to_proto(usage: Usage) -> inference_pb2.Usage:
    """The wire form of token counts."""
    return inference_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        image_tokens=usage.image_tokens,
        cached_tokens=usage.cached_tokens,
        replays=usage.replays,
    )


def usage_from_proto(message: inference_pb2.Usage) -> Usage:
    """Token counts from their wire form."""
    return Usage(
        message.prompt_tokens,
        message.completion_tokens,
        message.image_tokens,
        message.cached_tokens,
        message.replays,
    )


def timeline_to_proto(spans: Iterable[Span]) -> list[inference_pb2.Span]:
    """The wire form of a timeline."""
    return [
        inference_pb2.Span(name=s.name, worker=s.worker, start_us=s.start_us, duration_us=s.duration_us)
        for s in spans
    ]


def timeline_from_proto(messages: Iterable[inference_pb2.Span]) -> tuple[Span, ...]:
    """A timeline from its wire form."""
    return tuple(Span(m.name, m.worker, m.start_us, m.duration_us) for m in messages)
