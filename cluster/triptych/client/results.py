"""What the clients give back: frozen and typed, with no protobuf in sight."""

from dataclasses import dataclass

from triptych.core.errors import Internal
from triptych.core.generation import FinishReason, PositionLogprobs
from triptych.core.sampling import SamplingParams
from triptych.core.usage import Span, Usage
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.generation import (
    finish_reason_from_proto,
    logprobs_from_proto,
    timeline_from_proto,
    usage_from_proto,
)
from triptych.wire.sampling import sampling_from_proto


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several answers to the same prompt.

    Attributes:
        index: Its place among them, from 0.
        logprobs: One entry per token when they were asked for; empty otherwise.
        timeline: Where the time went, by stage and worker.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[PositionLogprobs, ...] = ()
    timeline: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished answer, or several.

    Attributes:
        logprobs: One entry per token when they were asked for; empty otherwise.
        usage: Of all answers together.
        timeline: Where the time went, by stage and worker.
        others: Answers 1 to n - 1 where several were asked for; the other fields are those of answer 0.
    """

    request_id: str
    model: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[PositionLogprobs, ...]
    usage: Usage
    timeline: tuple[Span, ...]
    others: tuple[Choice, ...] = ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Every answer, alike."""
        first = Choice(0, self.text, self.token_ids, self.finish_reason, self.logprobs, self.timeline)
        return (first, *self.others)


@dataclass(frozen=True, slots=True)
class TextChunk:
    """The next piece of an answer.

    Attributes:
        text: Text that is final; may be empty while a character or a stop text is undecided.
        token_ids: The tokens that arrived, whether or not their text is decided.
        logprobs: One entry per token when they were asked for.
        finish_reason: Set on the last piece of each answer.
        index: Of the answer that it is a piece of, where several were asked for.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the cluster serves.

    Attributes:
        context_length: Tokens that prompt and answer may have together.
        accepts_images: Whether chat messages may hold images.
        default_sampling: What a request gets for a parameter that it leaves open; what is None there too is neutral.
        accepts_videos: Whether chat messages may hold videos.
        adapters: Names that a request's `adapter` may have.
        embedding_size: Numbers of a vector of a model that gives embeddings; 0 for one that generates.
    """

    name: str
    context_length: int
    accepts_images: bool
    vocabulary_size: int
    default_sampling: SamplingParams
    accepts_videos: bool = False
    adapters: tuple[str, ...] = ()
    embedding_size: int = 0


def generation_from_proto(message: pb.GenerateResponse) -> Generation:
    """A whole answer."""
    return Generation(
        request_id=message.request_id,
        model=message.model,
        text=message.text,
        token_ids=tuple(message.token_ids),
        finish_reason=_ended(finish_reason_from_proto(message.finish_reason), message.request_id),
        logprobs=logprobs_from_proto(message.logprobs),
        usage=usage_from_proto(message.usage),
        timeline=timeline_from_proto(message.timeline),
        others=tuple(_choice(choice, message.request_id) for choice in message.other_choices),
    )


def models_from_proto(message: pb.ListModelsResponse) -> tuple[ModelInfo, ...]:
    """The models of a cluster."""
    return tuple(
        ModelInfo(
            m.name,
            m.context_length,
            m.accepts_images,
            m.vocabulary_size,
            sampling_from_proto(m.default_sampling),
            m.accepts_videos,
            adapters=tuple(m.adapters),
            embedding_size=m.embedding_size,
        )
        for m in message.models
    )


def _choice(message: pb.Choice, request_id: str) -> Choice:
    return Choice(
        message.index,
        message.text,
        tuple(message.token_ids),
        _ended(finish_reason_from_proto(message.finish_reason), request_id),
        logprobs_from_proto(message.logprobs),
        timeline_from_proto(message.timeline),
    )


def _ended(reason: FinishReason | None, request_id: str) -> FinishReason:
    if reason is None:
        raise Internal("the server ended the answer without a finish reason", request_id=request_id)
    return reason
