"""InferenceService over the dispatcher."""

import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from triptych.core.errors import Cancelled, DeadlineExceeded, FailedPrecondition, InvalidArgument, TriptychError
from triptych.core.generation import FinishReason, GeneratedToken
from triptych.core.resuming import FIELD as RECEIVED
from triptych.core.sampling import MAX_CHOICES
from triptych.core.usage import Span, Usage
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import inference_pb2_grpc, sampling_pb2
from triptych.router.answers import Answers, Part
from triptych.router.call import Finished, Piece, choice_id
from triptych.router.clock import now
from triptych.router.dispatch import Dispatcher
from triptych.router.guard import Guarded
from triptych.router.intake import Intake
from triptych.wire.generation import finish_reason_to_proto, logprobs_to_proto, timeline_to_proto, usage_to_proto
from triptych.wire.prompt import picture_bytes, prompt_from_proto
from triptych.wire.request import generation_from_proto
from triptych.wire.sampling import sampling_to_proto

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """What clients call.

    Args:
        intake: Checks and tokenizes.
        dispatcher: Runs requests.
    """

    def __init__(self, intake: Intake, dispatcher: Dispatcher) -> None:
        self._intake = intake
        self._dispatcher = dispatcher

    @property
    def _context_length(self) -> int:
        """What a request may fill: the model's context, or the smallest KV cache if that is less."""
        limit = self._intake.limits.context_length
        return min(limit, self._dispatcher.kv_tokens() or limit)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Collects the stream into one answer."""
        async with Guarded(context), self._answers(request.input, context) as answers:
            collected = [Collected() for _ in answers.candidates]
            async for choice, output, usage in answers.parts():
                collected[choice].add(output)
                if usage is not None:
                    return self._response(answers.request_id, collected, usage)
        raise AssertionError("the last part has the usage")

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        """Sends pieces as they come; the stream's end, however it comes about, ends the call."""
        async with Guarded(context), self._answers(request.input, context) as answers:
            model = self._intake.model
            async for part in answers.parts():
                message = self._stream_message(answers.request_id, part)
                message.model, model = model, ""
                yield message

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Refused: no text encoder is served."""
        async with Guarded(context):
            raise FailedPrecondition(f"{self._intake.model} generates and gives no embeddings: call Generate")

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Text or chat to token ids."""
        async with Guarded(context):
            self._intake.require_model(request.model)
            prompt = await self._intake.tokenize(prompt_from_proto(request))
            return pb.TokenizeResponse(token_ids=prompt.token_ids)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        """Token ids to text."""
        async with Guarded(context):
            self._intake.require_model(request.model)
            return pb.DetokenizeResponse(text=await self._intake.detokenize(request.token_ids, self._context_length))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """The one model that is served."""
        spec = self._intake.spec
        model = pb.Model(
            name=self._intake.model,
            context_length=self._context_length,
            accepts_images=spec.vision is not None,
            vocabulary_size=spec.decoder.vocab_size,
            default_sampling=sampling_to_proto(self._intake.defaults),
            accepts_videos=self._intake.accepts_videos,
            adapters=self._intake.adapters,
        )
        return pb.ListModelsResponse(models=[model])

    @contextlib.asynccontextmanager
    async def _answers(self, request: pb.GenerationInput, context: Context) -> AsyncIterator[Answers]:
        """Submitted calls; the dispatcher is told when their client has left, and whether it heard the end."""
        accepted = now()
        remaining = context.time_remaining()
        deadline = None if remaining is None else accepted + remaining
        answers = await self._submit(request, accepted, deadline)
        error: TriptychError | None = None
        try:
            yield answers
        except TriptychError:
            raise  # what the client is told is the end
        except BaseException:
            expired = deadline is not None and now() >= deadline
            error = DeadlineExceeded("the deadline passed") if expired else Cancelled("the client went away")
            raise
        finally:
            answers.leave(error)

    async def _submit(self, request: pb.GenerationInput, accepted: float, deadline: float | None) -> Answers:
        n = request.sampling.n if 1 <= request.sampling.n <= MAX_CHOICES else 1  # what is wrong is refused below
        ids = [choice_id(request.request_id, i) for i in range(n)] if request.HasField("resume") else []
        with contextlib.ExitStack() as stack:
            seat = stack.enter_context(self._dispatcher.seat(picture_bytes(request), ids, n))
            limit = self._context_length
            self._intake.require_room(len(request.token_ids.ids), limit)  # before they are copied
            for received in (request.resume.received_token_ids, *(c.ids for c in request.resume.other_choices)):
                _require_answer(len(received), self._intake.limits.context_length)
            asked = generation_from_proto(request)
            candidates = [await self._intake.admit(asked, limit, deadline)]
            for index in range(1, asked.sampling.n):
                candidates.append(await self._intake.another(candidates[0][0], index, asked.received(index)))
            answers = Answers(self._dispatcher, candidates, accepted)
            if answers.begin():
                self._dispatcher.seats.begin(seat)
                answers.seats = stack.pop_all()
            return answers

    def _response(self, request_id: str, collected: list["Collected"], usage: Usage) -> pb.GenerateResponse:
        first = collected[0]
        return pb.GenerateResponse(
            request_id=request_id,
            model=self._intake.model,
            text="".join(first.text),
            token_ids=[token.token_id for token in first.tokens],
            finish_reason=finish_reason_to_proto(first.reason),
            logprobs=self._logprobs(first.tokens),
            usage=usage_to_proto(usage),
            timeline=timeline_to_proto(first.timeline),
            other_choices=[self._choice(i, choice) for i, choice in enumerate(collected[1:], start=1)],
        )

    def _choice(self, index: int, choice: "Collected") -> pb.Choice:
        return pb.Choice(
            index=index,
            text="".join(choice.text),
            token_ids=[token.token_id for token in choice.tokens],
            finish_reason=finish_reason_to_proto(choice.reason),
            logprobs=self._logprobs(choice.tokens),
            timeline=timeline_to_proto(choice.timeline),
        )

    def _stream_message(self, request_id: str, part: Part) -> pb.GenerateStreamResponse:
        match part.output:
            case Piece(text, tokens):
                return pb.GenerateStreamResponse(
                    request_id=request_id,
                    index=part.choice,
                    text=text,
                    token_ids=[token.token_id for token in tokens],
                    logprobs=self._logprobs(tokens),
                )
            case Finished(reason, _, timeline, text):
                return pb.GenerateStreamResponse(
                    request_id=request_id,
                    index=part.choice,
                    text=text,
                    finish_reason=finish_reason_to_proto(reason),
                    usage=None if part.usage is None else usage_to_proto(part.usage),
                    timeline=timeline_to_proto(timeline),
                )

    def _logprobs(self, tokens: Iterable[GeneratedToken]) -> list[sampling_pb2.PositionLogprobs]:
        """With the bytes of every token, which workers do not know."""
        named = (self._intake.text.named(token) for token in tokens)
        return logprobs_to_proto(logprobs for logprobs in named if logprobs is not None)


def _require_answer(tokens: int, context_length: int) -> None:
    if tokens > context_length:
        raise InvalidArgument(
            f"{RECEIVED} may hold at most {context_length} ids, which is the context; got {tokens}", field=RECEIVED
        )


@dataclass(slots=True)
class Collected:
    """What there is of one answer.

    Attributes:
        reason: None until it has ended.
    """

    text: list[str] = field(default_factory=list)
    tokens: list[GeneratedToken] = field(default_factory=list)
    reason: FinishReason | None = None
    timeline: tuple[Span, ...] = ()

    def add(self, output: Piece | Finished) -> None:
        """Takes what is new."""
        self.text.append(output.text)
        match output:
            case Piece(_, tokens):
                self.tokens += tokens
            case Finished(reason, _, timeline):
                self.reason, self.timeline = reason, timeline
