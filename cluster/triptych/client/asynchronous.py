"""The asyncio client."""

import asyncio
import functools
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from types import TracebackType
from typing import Final, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message
from grpc import aio

from triptych.admin.v1 import admin_pb2, admin_pb2_grpc
from triptych.client.cluster import ClusterStatus, cluster_from_proto
from triptych.client.embeddings import Embeddings, EmbedOptions, TextsLike, embed_request, embeddings_from_proto
from triptych.client.line import FAREWELL_SECONDS, AsyncLine, Call, Lines, now
from triptych.client.messages import MessageLike
from triptych.client.operations import Scaling, drain_request, scale_request, scaling_from_proto
from triptych.client.prompts import ImageSource, PromptLike
from triptych.client.pursuit import Pursuit
from triptych.client.requests import (
    GenerateOptions,
    TemplateOptions,
    chat_prompt,
    detokenize_request,
    generation_request,
    tokenize_request,
)
from triptych.client.results import Generation, ModelInfo, generation_from_proto, models_from_proto
from triptych.client.settings import CHANNEL_OPTIONS, DEFAULT_RECONNECT, Settings
from triptych.client.stream import AsyncResponses, AsyncTextStream, own_task_is_cancelled
from triptych.client.traces import TRACE_SECONDS, WorkerTrace, trace_request, traces_from_proto
from triptych.client.unary import AsyncAnswer, answer_async
from triptych.core.errors import Cancelled, FailedPrecondition
from triptych.inference.v1 import inference_pb2, inference_pb2_grpc
from triptych.wire.status import error_from_rpc

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
C = TypeVar("C", bound=Call)


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods, results and errors.

    It belongs to the event loop that makes its first call. Cancelling a task that awaits a call ends the request::

        async with AsyncClient() as client, client.stream("Once upon a time", max_tokens=32) as stream:
            async for chunk in stream:
                print(chunk.text, end="", flush=True)
    """

    def __init__(
        self, address: str | None = None, *, timeout: float | None = None, reconnect: float = DEFAULT_RECONNECT
    ) -> None:
        self._settings: Final = Settings.read(address, timeout, reconnect)
        self._lines: Final = Lines()
        self._farewells: Final[set[asyncio.Future[admin_pb2.CancelGenerationResponse]]] = set()
        self._closed = False

    @property
    def address(self) -> str:
        """Where the cluster is."""
        return self._settings.address

    async def generate(self, prompt: PromptLike, **options: Unpack[GenerateOptions]) -> Generation:
        """The whole answer to a text, token ids or a conversation."""

        def dial(body: inference_pb2.GenerationInput, timeout: float | None) -> "AsyncAnswer":
            return self._inference.Generate(inference_pb2.GenerateRequest(input=body), timeout=timeout)

        return generation_from_proto(await answer_async(self._line(prompt, options, dial)))

    async def chat(
        self,
        messages: str | Sequence[MessageLike],
        *,
        images: Iterable[ImageSource] = (),
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """The whole answer to a conversation, or to one user's turn with images."""
        return await self.generate(chat_prompt(messages, images), **options)

    def stream(self, prompt: PromptLike, **options: Unpack[GenerateOptions]) -> AsyncTextStream:
        """The answer piece by piece."""

        def dial(body: inference_pb2.GenerationInput, timeout: float | None) -> "AsyncResponses":
            request = inference_pb2.GenerateStreamRequest(input=body)
            return self._inference.GenerateStream(request, timeout=timeout)

        return AsyncTextStream(self._line(prompt, options, dial))

    async def embed(self, texts: TextsLike, **options: Unpack[EmbedOptions]) -> Embeddings:
        """A vector for each text, by a model that gives embeddings.

        Args:
            texts: One text, several, or their token ids with special tokens.
            **options: See `EmbedOptions`.

        Raises:
            PromptTooLong: a text is longer than the model reads, and may not be cut.
            FailedPrecondition: the model generates.
        """
        request = embed_request(texts, options)
        call = self._call(self._inference.Embed, request, options.get("timeout"), request.request_id)
        return embeddings_from_proto(await call)

    async def tokenize(
        self, prompt: str | Sequence[MessageLike], *, model: str = "", **options: Unpack[TemplateOptions]
    ) -> tuple[int, ...]:
        """Token ids of a text or a conversation, as a generation would see them."""
        request = tokenize_request(prompt, model, options)
        return tuple((await self._call(self._inference.Tokenize, request)).token_ids)

    async def detokenize(self, token_ids: Sequence[int], *, model: str = "") -> str:
        """The text of token ids."""
        request = detokenize_request(token_ids, model)
        return (await self._call(self._inference.Detokenize, request)).text

    async def models(self) -> tuple[ModelInfo, ...]:
        """The models that the cluster serves."""
        return models_from_proto(await self._call(self._inference.ListModels, inference_pb2.ListModelsRequest()))

    async def status(self) -> ClusterStatus:
        """Workers, queues, KV use and counters at this moment."""
        request = admin_pb2.GetClusterStatusRequest()
        return cluster_from_proto(await self._call(self._admin.GetClusterStatus, request))

    async def cancel(self, request_id: str) -> None:
        """Ends a running request, whoever started it.

        Raises:
            NotFound: no such request runs.
        """
        request = admin_pb2.CancelGenerationRequest(request_id=request_id)
        await self._call(self._admin.CancelGeneration, request, request_id=request_id)

    async def drain(self, worker_id: str, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the requests', not ours
        """Takes a worker out: no new work, what runs there ends or moves, then it ends. Returns at once.

        Args:
            worker_id: Such as "decode-1".
            timeout: Seconds that requests may go on there before they move; by default the cluster's.

        Raises:
            NotFound: there is no such worker.
            FailedPrecondition: it is the last one that can do its work.
        """
        await self._call(self._admin.DrainWorker, drain_request(worker_id, timeout))

    async def scale(self, stage: str, replicas: int) -> Scaling:
        """Sets how many workers a stage ("encode", "prefill", "decode") has. Returns at once.

        Raises:
            InvalidArgument: so many cannot be.
            FailedPrecondition: nobody would be left to do the work of the stage, or the new workers do not fit.
        """
        return scaling_from_proto(await self._call(self._admin.ScaleStage, scale_request(stage, replicas)))

    async def balance_experts(self, *worker_ids: str) -> tuple[str, ...]:
        """Has workers move experts among their ranks now, all that can if none is named. Returns at once.

        Returns:
            The workers that were told; `status` shows how far they are.

        Raises:
            NotFound: there is no such worker.
            FailedPrecondition: it has no experts to move.
        """
        request = admin_pb2.BalanceExpertsRequest(worker_ids=worker_ids)
        return tuple((await self._call(self._admin.BalanceExperts, request)).worker_ids)

    async def trace(self, *worker_ids: str, steps: int = 20, within: float = 10.0) -> tuple[WorkerTrace, ...]:
        """What workers do until each has computed so many steps, or has had the time; all at once.

        Args:
            worker_ids: Such as "decode-0"; all if none is named.
            steps: Of each.
            within: Seconds.

        Raises:
            NotFound: there is no such worker.
            FailedPrecondition: another trace of one is being taken.
        """
        request = trace_request(worker_ids, steps, within)
        return traces_from_proto(await self._call(self._admin.Trace, request, timeout=within + TRACE_SECONDS))

    async def close(self) -> None:
        """Ends every call and the connection."""
        self._closed = True
        self._lines.cut()
        await asyncio.gather(*self._farewells, return_exceptions=True)
        if "_channel" in self.__dict__:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @cached_property
    def _channel(self) -> aio.Channel:
        # A channel binds itself to the loop that runs when it is made, which need not run yet when the client is.
        return aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)

    @cached_property
    def _inference(self) -> "inference_pb2_grpc.InferenceServiceAsyncStub":
        return inference_pb2_grpc.InferenceServiceStub(self._channel)

    @cached_property
    def _admin(self) -> "admin_pb2_grpc.AdminServiceAsyncStub":
        return admin_pb2_grpc.AdminServiceStub(self._channel)

    async def _call(
        self,
        method: "aio.UnaryUnaryMultiCallable[Q, R]",
        request: Q,
        timeout: float | None = None,  # noqa: ASYNC109 - a gRPC deadline, which the server sees
        request_id: str = "",
    ) -> R:
        self._check_open()
        try:
            return await method(request, timeout=self._settings.deadline(timeout))
        except grpc.RpcError as error:
            raise error_from_rpc(error, address=self.address, request_id=request_id) from error
        except asyncio.CancelledError:
            if own_task_is_cancelled():
                raise
            raise Cancelled("the client was closed", request_id=request_id) from None

    def _line(
        self,
        prompt: PromptLike,
        options: GenerateOptions,
        dial: Callable[[inference_pb2.GenerationInput, float | None], C],
    ) -> AsyncLine[C]:
        self._check_open()
        body = generation_request(prompt, options)
        terms = self._settings.terms(options.get("timeout"), options.get("reconnect"))
        forsake = functools.partial(self._forsake, body.request_id) if body.linger_ms else None
        line = AsyncLine(Pursuit(body, self.address, terms, now()), functools.partial(dial, body), forsake)
        self._lines.add(line)
        return line

    def _forsake(self, request_id: str, call: Call) -> None:
        """As `Client._forsake`."""
        request = admin_pb2.CancelGenerationRequest(request_id=request_id)
        farewell = asyncio.ensure_future(self._admin.CancelGeneration(request, timeout=FAREWELL_SECONDS))
        self._farewells.add(farewell)
        farewell.add_done_callback(lambda _: call.cancel())
        farewell.add_done_callback(self._farewells.discard)

    def _check_open(self) -> None:
        if self._closed:
            raise FailedPrecondition("this client is closed")
