"""The fake cluster's answers."""
# ruff: noqa: N802, D102 - gRPC names the methods, and the protos describe them.

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, assert_never

import grpc

from triptych.admin.v1 import admin_pb2, admin_pb2_grpc
from triptych.client.testing.script import MODEL, TIMELINE, TOKENS_PER_IMAGE, Fail, Hold, Say, Step
from triptych.core.errors import Cancelled, InvalidArgument, NotFound, TriptychError
from triptych.core.generation import FinishReason, PositionLogprobs, TokenLogprob
from triptych.core.inputs import ChatInput, GenerationInput, PromptInput, TextInput, TokenInput
from triptych.core.prompt import ImagePart, TextPart
from triptych.core.usage import Usage
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import inference_pb2_grpc
from triptych.wire.generation import finish_reason_to_proto, logprobs_to_proto, timeline_to_proto, usage_to_proto
from triptych.wire.prompt import prompt_from_proto
from triptych.wire.request import generation_from_proto
from triptych.wire.status import status_from_error


@dataclass(slots=True)
class _Run:
    ended: threading.Event = field(default_factory=threading.Event)
    settled: bool = False
    """The server has decided how the request ends, so that its client's leaving is no surprise."""


class FakeService(inference_pb2_grpc.InferenceServiceServicer, admin_pb2_grpc.AdminServiceServicer):
    """Follows a script; `arrived` counts generations, `abandoned` those that lost their client midway."""

    def __init__(
        self, script: tuple[Step, ...], status: admin_pb2.GetClusterStatusResponse, requests: list[GenerationInput]
    ) -> None:
        self.arrived: Final = threading.Semaphore(0)
        self.abandoned: Final = threading.Semaphore(0)
        self._script: Final = script
        self._status: Final = status
        self._requests: Final = requests
        self._running: Final[dict[str, _Run]] = {}
        self._ids: Final = itertools.count()

    def Generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> pb.GenerateResponse:
        chunks = list(self._answer(request.input, context))
        last = chunks[-1]
        return pb.GenerateResponse(
            request_id=last.request_id,
            model=MODEL,
            text="".join(chunk.text for chunk in chunks),
            token_ids=[token_id for chunk in chunks for token_id in chunk.token_ids],
            finish_reason=last.finish_reason,
            logprobs=[position for chunk in chunks for position in chunk.logprobs],
            usage=last.usage,
            timeline=last.timeline,
        )

    def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateStreamResponse]:
        yield from self._answer(request.input, context)

    def Tokenize(self, request: pb.TokenizeRequest, context: grpc.ServicerContext) -> pb.TokenizeResponse:
        with _aborting(context):
            return pb.TokenizeResponse(token_ids=_tokens(prompt_from_proto(request)))

    def Detokenize(self, request: pb.DetokenizeRequest, context: grpc.ServicerContext) -> pb.DetokenizeResponse:
        with _aborting(context):
            if any(not 0 <= token_id < 256 for token_id in request.token_ids):
                raise InvalidArgument("token_ids must be in [0, 255]", field="token_ids")
            return pb.DetokenizeResponse(text=bytes(request.token_ids).decode(errors="replace"))

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:
        model = pb.Model(name=MODEL, context_length=2048, accepts_images=True, vocabulary_size=256)
        return pb.ListModelsResponse(models=[model])

    def GetClusterStatus(
        self, request: admin_pb2.GetClusterStatusRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetClusterStatusResponse:
        return self._status

    def CancelGeneration(
        self, request: admin_pb2.CancelGenerationRequest, context: grpc.ServicerContext
    ) -> admin_pb2.CancelGenerationResponse:
        with _aborting(context):
            run = self._running.get(request.request_id)
            if run is None:
                raise NotFound(f"no running request has the id {request.request_id!r}", field="request_id")
            run.settled = True
            run.ended.set()
        return admin_pb2.CancelGenerationResponse()

    def _answer(
        self, message: pb.GenerationInput, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateStreamResponse]:
        with _aborting(context):
            request = generation_from_proto(message)
            self._requests.append(request)
            self.arrived.release()
            if request.model not in ("", MODEL):
                raise NotFound(f"no model {request.model!r} is served here; {MODEL} is", field="model")
            yield from self._follow(request, context)

    def _follow(self, request: GenerationInput, context: grpc.ServicerContext) -> Iterator[pb.GenerateStreamResponse]:
        request_id = request.request_id or f"fake-{next(self._ids)}"
        run = self._running[request_id] = _Run()
        if not context.add_callback(lambda: self._end(run)):
            self._end(run)
        tokens = 0
        try:
            for step in self._script:
                match step:
                    case Say(text):
                        logprobs = [_logprobs(tokens)] if request.sampling.logprobs is not None else []
                        yield pb.GenerateStreamResponse(
                            request_id=request_id,
                            model="" if tokens else MODEL,
                            text=text,
                            token_ids=[tokens],
                            logprobs=logprobs_to_proto(logprobs),
                        )
                        tokens += 1
                    case Hold():
                        run.ended.wait()
                        raise Cancelled("the request was cancelled", request_id=request_id)
                    case Fail(error):
                        run.settled = True
                        error.request_id = error.request_id or request_id
                        raise error
                    case unknown:
                        assert_never(unknown)
            run.settled = True
            yield _last(request_id, request.prompt, tokens)
        finally:
            del self._running[request_id]

    def _end(self, run: _Run) -> None:
        if not run.settled:
            self.abandoned.release()
        run.ended.set()


@contextmanager
def _aborting(context: grpc.ServicerContext) -> Iterator[None]:
    try:
        yield
    except TriptychError as error:
        context.abort_with_status(status_from_error(error))


def _last(request_id: str, prompt: PromptInput, tokens: int) -> pb.GenerateStreamResponse:
    usage = Usage(len(_tokens(prompt)), tokens, len(_images(prompt)) * TOKENS_PER_IMAGE)
    return pb.GenerateStreamResponse(
        request_id=request_id,
        model=MODEL,
        finish_reason=finish_reason_to_proto(FinishReason.STOP),
        usage=usage_to_proto(usage),
        timeline=timeline_to_proto(TIMELINE),
    )


def _logprobs(token_id: int) -> PositionLogprobs:
    return PositionLogprobs(-0.5, (TokenLogprob(token_id, -0.5),))


def _tokens(prompt: PromptInput) -> list[int]:
    match prompt:
        case TextInput(text):
            return list(text.encode())
        case TokenInput(token_ids):
            return list(token_ids)
        case ChatInput(messages):
            texts = [part.text for message in messages for part in message.parts if isinstance(part, TextPart)]
            return [0] * (len(_images(prompt)) * TOKENS_PER_IMAGE) + list("".join(texts).encode())
        case unknown:
            assert_never(unknown)


def _images(prompt: PromptInput) -> list[ImagePart]:
    if not isinstance(prompt, ChatInput):
        return []
    return [part for message in prompt.messages for part in message.parts if isinstance(part, ImagePart)]
