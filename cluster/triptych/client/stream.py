"""An answer as it arrives: an iterator of `TextChunk` that ends its request when it is left."""

import asyncio
import weakref
from types import TracebackType
from typing import Final, Protocol, Self

import grpc
from grpc import aio

from triptych.client.assembly import Assembly
from triptych.client.line import AsyncLine, Call, Line
from triptych.client.pursuit import Pursuit
from triptych.client.results import Generation, TextChunk
from triptych.core.errors import TriptychError
from triptych.inference.v1 import inference_pb2 as pb

AsyncResponses = aio.UnaryStreamCall[pb.GenerateStreamRequest, pb.GenerateStreamResponse]


class Responses(Call, Protocol):
    """What a streaming call of gRPC is, apart from its status."""

    def __next__(self) -> pb.GenerateStreamResponse: ...


class TextStream:
    """Pieces of an answer. Leaving the `with` block, `cancel()` or dropping the stream ends the request.

    When the connection is lost, the next piece waits until it is found again. Iterating raises a `TriptychError` when
    the request fails, `Cancelled` after `cancel()`.
    """

    def __init__(self, line: Line[Responses]) -> None:
        self._line: Final = line
        self._assembly: Final = _assembly(line.pursuit)
        weakref.finalize(self, line.cut).atexit = False

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self._assembly.request_id

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TextChunk:
        self._line.require_wanted()
        try:
            while (chunk := _received(self._message(), self._assembly, self._line.pursuit)) is None:
                pass
            return chunk
        except (StopIteration, TriptychError):
            raise
        except BaseException:
            self.cancel()
            raise

    def result(self) -> Generation:
        """The whole answer; reads what has not been read yet."""
        for _ in self:
            pass
        return self._assembly.result()

    def cancel(self) -> None:
        """Ends the request on every stage; does nothing once it has ended."""
        self._line.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def _message(self) -> pb.GenerateStreamResponse:
        while True:
            try:
                return next(self._line.call)
            except grpc.RpcError as error:
                if self._assembly.complete:
                    raise StopIteration from error
                self._line.redial(error, self._assembly.received)


class AsyncTextStream:
    """`TextStream` for asyncio."""

    def __init__(self, line: "AsyncLine[AsyncResponses]") -> None:
        self._line: Final = line
        self._messages = aiter(line.call)
        self._assembly: Final = _assembly(line.pursuit)
        self._failure: TriptychError | None = None
        weakref.finalize(self, line.cut).atexit = False

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self._assembly.request_id

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TextChunk:
        if self._failure:
            raise self._failure
        try:
            self._line.require_wanted()
            while (chunk := _received(await self._message(), self._assembly, self._line.pursuit)) is None:
                pass
            return chunk
        except TriptychError as error:
            self._failure = error
            raise
        except asyncio.CancelledError:
            self._failure = self._line.pursuit.cancelled()
            if own_task_is_cancelled():
                self.cancel()
                raise
            raise self._failure from None

    async def result(self) -> Generation:
        """The whole answer; reads what has not been read yet."""
        async for _ in self:
            pass
        return self._assembly.result()

    def cancel(self) -> None:
        """Ends the request on every stage; does nothing once it has ended."""
        self._line.cut()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    async def _message(self) -> pb.GenerateStreamResponse:
        while True:
            try:
                return await anext(self._messages)
            except grpc.RpcError as error:
                if self._assembly.complete:
                    raise StopAsyncIteration from error
                await self._line.redial(error, self._assembly.received)
                self._messages = aiter(self._line.call)


def _assembly(pursuit: Pursuit) -> Assembly:
    return Assembly(pursuit.body.request_id, pursuit.body.sampling.n or 1)


def _received(message: pb.GenerateStreamResponse, assembly: Assembly, pursuit: Pursuit) -> TextChunk | None:
    chunk = assembly.add(message)
    pursuit.heard()
    if assembly.complete:
        pursuit.done()
    return chunk


def own_task_is_cancelled() -> bool:
    """Whether an `asyncio.CancelledError` is meant for the running task.

    gRPC raises it also when only the call was cancelled, which is a `Cancelled` like any other.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
