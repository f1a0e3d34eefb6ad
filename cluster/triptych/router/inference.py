"""InferenceService over the dispatcher."""

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from triptych.core.errors import Cancelled, DeadlineExceeded, InvalidArgument, TriptychError
from triptych.core.generation import GeneratedToken
from triptych.core.resuming import FIELD as RECEIVED
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import inference_pb2_grpc, sampling_pb2
from triptych.router.call import Call, Finished, Piece
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
        text: list[str] = []
        tokens: list[GeneratedToken] = []
        async with Guarded(context), self._call(request.input, context) as call:
            outputs = call.outputs()
            while True:
                match await anext(outputs):
                    case Piece(piece, new):
                        text.append(piece)
                        tokens += new
                    case Finished(reason, usage, timeline, rest):
                        return pb.GenerateResponse(
                            request_id=call.request_id,
                            model=self._intake.model,
                            text="".join(text) + rest,
                            token_ids=[token.token_id for token in tokens],
                            finish_reason=finish_reason_to_proto(reason),
                            logprobs=self._logprobs(tokens),
                            usage=usage_to_proto(usage),
                            timeline=timeline_to_proto(timeline),
                        )

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        """Sends pieces as they come; the stream's end, however it comes about, ends the call."""
        async with Guarded(context), self._call(request.input, context) as call:
            model = self._intake.model
            async for output in call.outputs():
                message = self._stream_message(call.request_id, output)
                message.model, model = model, ""
                yield message

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
        )
        return pb.ListModelsResponse(models=[model])

    @contextlib.asynccontextmanager
    async def _call(self, request: pb.GenerationInput, context: Context) -> AsyncIterator[Call]:
        """A submitted call; the dispatcher is told when its client has left, and whether it heard the end."""
        accepted = now()
        remaining = context.time_remaining()
        deadline = None if remaining is None else accepted + remaining
        call = await self._submit(request, accepted, deadline)
        error: TriptychError | None = None
        try:
            yield call
        except TriptychError:
            raise  # what the client is told is the end
        except BaseException:
            expired = deadline is not None and now() >= deadline
            error = DeadlineExceeded("the deadline passed") if expired else Cancelled("the client went away")
            raise
        finally:
            self._dispatcher.leave(call, error)

    async def _submit(self, request: pb.GenerationInput, accepted: float, deadline: float | None) -> Call:
        returning = request.request_id if request.HasField("resume") else ""
        with self._dispatcher.seat(picture_bytes(request), returning):
            limit = self._context_length
            self._intake.require_room(len(request.token_ids.ids), limit)  # before they are copied
            _require_answer(len(request.resume.received_token_ids), self._intake.limits.context_length)
            admitted = await self._intake.admit(generation_from_proto(request), limit, deadline)
            return self._dispatcher.submit(*admitted, accepted)

    def _stream_message(self, request_id: str, output: Piece | Finished) -> pb.GenerateStreamResponse:
        match output:
            case Piece(text, tokens):
                return pb.GenerateStreamResponse(
                    request_id=request_id,
                    text=text,
                    token_ids=[token.token_id for token in tokens],
                    logprobs=self._logprobs(tokens),
                )
            case Finished(reason, usage, timeline, text):
                return pb.GenerateStreamResponse(
                    request_id=request_id,
                    text=text,
                    finish_reason=finish_reason_to_proto(reason),
                    usage=usage_to_proto(usage),
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
