"""InferenceService of a model that gives embeddings."""

from typing import Any, NoReturn

import grpc

from triptych.core.errors import Cancelled, DeadlineExceeded, FailedPrecondition, TriptychError
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import inference_pb2_grpc
from triptych.router.clock import now
from triptych.router.dispatch import Dispatcher
from triptych.router.guard import Guarded
from triptych.router.text_intake import TextIntake
from triptych.router.texts import AdmittedTexts, VectorCall, Vectors
from triptych.wire.embedding import embedding_from_proto
from triptych.wire.generation import timeline_to_proto, usage_to_proto

Context = grpc.aio.ServicerContext[Any, Any]


class EmbeddingServicer(inference_pb2_grpc.InferenceServiceServicer):
    """What clients call; what only a model that generates can do is refused.

    Args:
        intake: Checks and tokenizes.
        dispatcher: Runs requests.
    """

    def __init__(self, intake: TextIntake, dispatcher: Dispatcher) -> None:
        self._intake = intake
        self._dispatcher = dispatcher

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """One vector for each text."""
        async with Guarded(context):
            accepted = now()
            remaining = context.time_remaining()
            deadline = None if remaining is None else accepted + remaining
            with self._dispatcher.seat():
                admitted = await self._intake.admit(embedding_from_proto(request), deadline)
                call = self._dispatcher.embed(admitted, accepted)
            return self._response(admitted, await self._result(call, deadline))

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Refused."""
        async with Guarded(context):
            self._refuse("Generate")

    async def GenerateStream(self, request: pb.GenerateStreamRequest, context: Context) -> Any:
        """Refused."""
        async with Guarded(context):
            self._refuse("GenerateStream")
        yield pb.GenerateStreamResponse()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Text to token ids."""
        async with Guarded(context):
            self._intake.require_model(request.model)
            if request.WhichOneof("prompt") == "chat":
                self._refuse("Tokenize of a chat")
            return pb.TokenizeResponse(token_ids=self._intake.tokenize(request.text))

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        """Refused."""
        async with Guarded(context):
            self._refuse("Detokenize")

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """The one model that is served."""
        spec = self._intake.spec
        model = pb.Model(
            name=self._intake.model,
            context_length=spec.max_tokens,
            vocabulary_size=spec.encoder.vocab_size,
            embedding_size=spec.size,
        )
        return pb.ListModelsResponse(models=[model])

    async def _result(self, call: VectorCall, deadline: float | None) -> Vectors:
        error: TriptychError | None = None
        try:
            return await call.result()
        except TriptychError:
            raise
        except BaseException:
            expired = deadline is not None and now() >= deadline
            error = DeadlineExceeded("the deadline passed") if expired else Cancelled("the client went away")
            raise
        finally:
            self._dispatcher.leave(call, error)

    def _response(self, request: AdmittedTexts, vectors: Vectors) -> pb.EmbedResponse:
        return pb.EmbedResponse(
            request_id=request.request_id,
            model=self._intake.model,
            dimensions=request.dimensions,
            values=vectors.values.ravel().tolist(),
            token_counts=map(len, request.texts),
            usage=usage_to_proto(vectors.usage),
            timeline=timeline_to_proto(vectors.timeline),
        )

    def _refuse(self, call: str) -> NoReturn:
        raise FailedPrecondition(f"{self._intake.model} gives embeddings of texts: {call} is not for it; call Embed")
