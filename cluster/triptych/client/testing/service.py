"""The fake cluster's answers."""
# ruff: noqa: N802, D102 - gRPC names the methods, and the protos describe them.

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, assert_never

import grpc

from triptych.admin.v1 import admin_pb2, admin_pb2_grpc
from triptych.client.testing.fleet import FakeFleet
from triptych.client.testing.memory import Memory, Run
from triptych.client.testing.messages import collected, embedded, last, piece, tokens_of
from triptych.client.testing.script import (
    MODEL,
    Break,
    Fail,
    Hold,
    Restart,
    Say,
    Step,
)
from triptych.core.errors import Cancelled, InvalidArgument, NotFound, TriptychError
from triptych.core.inputs import GenerationInput
from triptych.core.trace import Lane
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import inference_pb2_grpc
from triptych.stage.v1 import stage_pb2
from triptych.wire.embedding import embedding_from_proto
from triptych.wire.prompt import prompt_from_proto
from triptych.wire.request import generation_from_proto
from triptych.wire.stage import stage_from_proto
from triptych.wire.status import status_from_error


class FakeService(inference_pb2_grpc.InferenceServiceServicer, admin_pb2_grpc.AdminServiceServicer):
    """Follows a script.

    `arrived` counts generations, `abandoned` those that lost their client midway, `cancelled` the calls of
    CancelGeneration. `restart` begins to start the server anew, which ends every handler.
    """

    def __init__(
        self,
        script: tuple[Step, ...],
        status: admin_pb2.GetClusterStatusResponse,
        requests: list[GenerationInput],
        restart: Callable[[], None],
    ) -> None:
        self.memory: Final = Memory(sum(isinstance(step, Say) for step in script))
        self.arrived: Final = threading.Semaphore(0)
        self.abandoned: Final = threading.Semaphore(0)
        self.cancelled: Final = threading.Semaphore(0)
        self._script: Final = script
        self._fleet: Final = FakeFleet(status)
        self._requests: Final = requests
        self._restart: Final = restart
        self._ids: Final = itertools.count()

    def Generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> pb.GenerateResponse:
        chunks = list(self._answer(request.input, context))
        first, *others = [collected(chunks, index) for index in range(chunks[-1].index + 1)]
        return pb.GenerateResponse(
            request_id=chunks[-1].request_id,
            model=MODEL,
            text=first.text,
            token_ids=first.token_ids,
            finish_reason=first.finish_reason,
            logprobs=first.logprobs,
            usage=chunks[-1].usage,
            timeline=first.timeline,
            other_choices=others,
        )

    def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateStreamResponse]:
        yield from self._answer(request.input, context)

    def Embed(self, request: pb.EmbedRequest, context: grpc.ServicerContext) -> pb.EmbedResponse:
        with _aborting(context):
            asked = embedding_from_proto(request)
            return embedded(asked, asked.request_id or f"fake-{next(self._ids)}")

    def Tokenize(self, request: pb.TokenizeRequest, context: grpc.ServicerContext) -> pb.TokenizeResponse:
        with _aborting(context):
            return pb.TokenizeResponse(token_ids=tokens_of(prompt_from_proto(request)))

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
        return self._fleet.look()

    def CancelGeneration(
        self, request: admin_pb2.CancelGenerationRequest, context: grpc.ServicerContext
    ) -> admin_pb2.CancelGenerationResponse:
        self.cancelled.release()
        with _aborting(context):
            run = self.memory.runs.get(request.request_id)
            if run is None:
                raise NotFound(f"no running request has the id {request.request_id!r}", field="request_id")
            run.settled = True
            run.ended.set()
        return admin_pb2.CancelGenerationResponse()

    def DrainWorker(
        self, request: admin_pb2.DrainWorkerRequest, context: grpc.ServicerContext
    ) -> admin_pb2.DrainWorkerResponse:
        with _aborting(context):
            self._fleet.drain(request.worker_id)
        return admin_pb2.DrainWorkerResponse()

    def ScaleStage(
        self, request: admin_pb2.ScaleStageRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ScaleStageResponse:
        with _aborting(context):
            stage = stage_from_proto(request.stage)
            if stage is None:
                raise InvalidArgument("stage must be encode, prefill or decode", field="stage")
            started, drained = self._fleet.scale(stage, request.replicas)
        return admin_pb2.ScaleStageResponse(started=started, drained=drained)

    def BalanceExperts(
        self, request: admin_pb2.BalanceExpertsRequest, context: grpc.ServicerContext
    ) -> admin_pb2.BalanceExpertsResponse:
        with _aborting(context):
            return admin_pb2.BalanceExpertsResponse(worker_ids=self._fleet.balance(request.worker_ids))

    def Trace(self, request: admin_pb2.TraceRequest, context: grpc.ServicerContext) -> admin_pb2.TraceResponse:
        with _aborting(context):
            known = [worker.worker_id for worker in self._fleet.look().workers]
            if unknown := [worker_id for worker_id in request.worker_ids if worker_id not in known]:
                raise NotFound(f"there is no worker {unknown[0]!r}; there are {', '.join(known)}")
        spans = [
            stage_pb2.Span(lane=Lane.COMPUTE, name="decode", start_ns=step * 10**7, duration_ns=8 * 10**6, size=1)
            for step in range(request.steps)
        ]
        trace = stage_pb2.StepTrace(spans=spans, steps=request.steps)
        workers = [admin_pb2.WorkerTrace(worker_id=one, trace=trace) for one in request.worker_ids or known]
        return admin_pb2.TraceResponse(workers=workers)

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
        run = self.memory.begin(request_id, request)
        if not context.add_callback(lambda: self._end(run)):
            self._end(run)
        tokens, kept = len(request.resume or ()), False
        try:
            for place, step in self._behind(tokens):
                match step:
                    case Say(text):
                        for index in range(request.sampling.n):
                            yield piece(request, request_id, tokens, text, index)
                        tokens += 1
                    case Break(refusals) | Restart(refusals) if self.memory.lose(request_id, place, refusals):
                        run.settled = kept = True
                        if isinstance(step, Restart):
                            self._restart()
                            run.ended.wait()
                        context.abort(grpc.StatusCode.UNAVAILABLE, "the connection was dropped")
                    case Break() | Restart():
                        pass
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
            for index in range(request.sampling.n):
                yield last(request, request_id, tokens, index)
        finally:
            if not kept:
                self.memory.finish(request_id, run)

    def _behind(self, tokens: int) -> Iterator[tuple[int, Step]]:
        """The steps that follow so many tokens, with their places in the script."""
        said = 0
        for place, step in enumerate(self._script):
            if said >= tokens:
                yield place, step
            said += isinstance(step, Say)

    def _end(self, run: Run) -> None:
        if not run.settled:
            self.abandoned.release()
        run.ended.set()


@contextmanager
def _aborting(context: grpc.ServicerContext) -> Iterator[None]:
    try:
        yield
    except TriptychError as error:
        context.abort_with_status(status_from_error(error))
