"""A stream's messages put together again: one answer, or several whose pieces come mixed."""

from dataclasses import dataclass, field
from typing import Final

from triptych.client.results import Choice, Generation, TextChunk
from triptych.core.errors import Internal
from triptych.core.generation import FinishReason
from triptych.core.usage import Span
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.generation import (
    finish_reason_from_proto,
    logprobs_from_proto,
    timeline_from_proto,
    usage_from_proto,
)


@dataclass(slots=True)
class Growing:
    """One answer as far as it has come; `finish_reason` is None until it has ended."""

    chunks: list[TextChunk] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    timeline: tuple[Span, ...] = ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Every token so far."""
        return tuple(token_id for chunk in self.chunks for token_id in chunk.token_ids)


class Assembly:
    """Grows a `Generation` out of the messages of a stream.

    Args:
        request_id: Of the request.
        n: How many answers it asked for.

    Attributes:
        request_id: As given, or as the server says.
    """

    def __init__(self, request_id: str, n: int = 1) -> None:
        self.request_id = request_id
        self._model = ""
        self._answers: Final = [Growing() for _ in range(n)]
        self._last: pb.GenerateStreamResponse | None = None

    def add(self, message: pb.GenerateStreamResponse) -> TextChunk | None:
        """Takes the next message and says what is new; None for the end of an answer whose end was there before.

        Raises:
            Internal: a piece of an answer that was not asked for.
        """
        self.request_id = message.request_id or self.request_id
        self._model = message.model or self._model
        if message.HasField("usage"):
            self._last = message
        if not 0 <= message.index < len(self._answers):
            raise Internal(f"the server sent a piece of answer {message.index}", request_id=self.request_id)
        answer = self._answers[message.index]
        if answer.finish_reason is not None:  # after a lost connection every answer is told to its end again
            return None
        answer.finish_reason = finish_reason_from_proto(message.finish_reason)
        answer.timeline = timeline_from_proto(message.timeline)
        chunk = TextChunk(
            text=message.text,
            token_ids=tuple(message.token_ids),
            logprobs=logprobs_from_proto(message.logprobs),
            finish_reason=answer.finish_reason,
            index=message.index,
        )
        answer.chunks.append(chunk)
        return chunk

    @property
    def complete(self) -> bool:
        """Whether every answer has ended."""
        return all(answer.finish_reason is not None for answer in self._answers)

    @property
    def received(self) -> tuple[tuple[int, ...], ...]:
        """Every token so far, by answer."""
        return tuple(answer.token_ids for answer in self._answers)

    def result(self) -> Generation:
        """The answers, once the stream has ended.

        Raises:
            Internal: the stream ended without saying why.
        """
        first, *others = [self._choice(index, answer) for index, answer in enumerate(self._answers)]
        return Generation(
            request_id=self.request_id,
            model=self._model,
            text=first.text,
            token_ids=first.token_ids,
            finish_reason=first.finish_reason,
            logprobs=first.logprobs,
            usage=usage_from_proto((self._last or pb.GenerateStreamResponse()).usage),
            timeline=first.timeline,
            others=tuple(others),
        )

    def _choice(self, index: int, answer: Growing) -> Choice:
        if answer.finish_reason is None:
            raise Internal("the server ended the answer without a finish reason", request_id=self.request_id)
        text = "".join(chunk.text for chunk in answer.chunks)
        logprobs = tuple(position for chunk in answer.chunks for position in chunk.logprobs)
        return Choice(index, text, answer.token_ids, answer.finish_reason, logprobs, answer.timeline)
