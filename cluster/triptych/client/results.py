"""What the clients give back: frozen and typed, with no protobuf in sight."""

from dataclasses import dataclass, field

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
class Generation:
    """A finished answer.

    Attributes:
        logprobs: One entry per token when they were asked for; empty otherwise.
        timeline: Where the time went, by stage and worker.
    """

    request_id: str
    model: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[PositionLogprobs, ...]
    usage: Usage
    timeline: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class TextChunk:
    """The next piece of an answer.

    Attributes:
        text: Text that is final; may be empty while a character or a stop text is undecided.
        token_ids: The tokens that arrived, whether or not their text is decided.
        logprobs: One entry per token when they were asked for.
        finish_reason: Set on the last piece.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the cluster serves.

    Attributes:
        context_length: Tokens that prompt and answer may have together.
        accepts_images: Whether chat messages may hold images.
        default_sampling: What a request gets for a parameter that it leaves open; what is None there too is neutral.
    """

    name: str
    context_length: int
    accepts_images: bool
    vocabulary_size: int
    default_sampling: SamplingParams


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
    )


def models_from_proto(message: pb.ListModelsResponse) -> tuple[ModelInfo, ...]:
    """The models of a cluster."""
    return tuple(
        ModelInfo(
            m.name, m.context_length, m.accepts_images, m.vocabulary_size, sampling_from_proto(m.default_sampling)
        )
        for m in message.models
    )


@dataclass(slots=True)
class Assembly:
    """Grows a `Generation` out of the messages of a stream."""

    request_id: str = ""
    model: str = ""
    chunks: list[TextChunk] = field(default_factory=list)
    last: pb.GenerateStreamResponse | None = None

    def add(self, message: pb.GenerateStreamResponse) -> TextChunk:
        """Takes the next message and says what is new."""
        self.request_id = message.request_id or self.request_id
        self.model = message.model or self.model
        self.last = message
        chunk = TextChunk(
            text=message.text,
            token_ids=tuple(message.token_ids),
            logprobs=logprobs_from_proto(message.logprobs),
            finish_reason=finish_reason_from_proto(message.finish_reason),
        )
        self.chunks.append(chunk)
        return chunk

    @property
    def complete(self) -> bool:
        """Whether the last message has arrived."""
        return self.last is not None and finish_reason_from_proto(self.last.finish_reason) is not None

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Every token so far."""
        return tuple(token_id for chunk in self.chunks for token_id in chunk.token_ids)

    def result(self) -> Generation:
        """The answer, once the stream has ended.

        Raises:
            Internal: the stream ended without saying why.
        """
        last = self.last or pb.GenerateStreamResponse()
        return Generation(
            request_id=self.request_id,
            model=self.model,
            text="".join(chunk.text for chunk in self.chunks),
            token_ids=self.token_ids,
            finish_reason=_ended(finish_reason_from_proto(last.finish_reason), self.request_id),
            logprobs=tuple(position for chunk in self.chunks for position in chunk.logprobs),
            usage=usage_from_proto(last.usage),
            timeline=timeline_from_proto(last.timeline),
        )


def _ended(reason: FinishReason | None, request_id: str) -> FinishReason:
    if reason is None:
        raise Internal("the server ended the answer without a finish reason", request_id=request_id)
    return reason
