"""An answer as it arrives: an iterator of `TextChunk` that ends its request when it is left."""

import asyncio
import weakref
from types import TracebackType
from typing import Final, Protocol, Self

import grpc
from grpc import aio

from triptych.client.results import Assembly, Generation, TextChunk
from triptych.core.errors import Cancelled
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.status import error_from_rpc


class _Responses(Protocol):
    """What a streaming call of gRPC is, apart from its status."""

    def __next__(self) -> pb.GenerateStreamResponse: ...

    def cancel(self) -> bool: ...


class TextStream:
    """Pieces of an answer. Leaving the `with` block, `cancel()` or dropping the stream ends the request.

    Iterating raises a `TriptychError` when the request fails, `Cancelled` after `cancel()`.
    """

    def __init__(self, call: _Responses, address: str, request_id: str) -> None:
        self._call: Final = call
        self._address: Final = address
        self._assembly: Final = Assembly(request_id=request_id)
        weakref.finalize(self, call.cancel).atexit = False

    @property
    def request_id(self) -> str:
        """The request's id; empty until the server has chosen one."""
        return self._assembly.request_id

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TextChunk:
        try:
            return self._assembly.add(next(self._call))
        except StopIteration:
            raise
        except grpc.RpcError as error:
            raise error_from_rpc(error, address=self._address, request_id=self.request_id) from error
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
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class AsyncTextStream:
    """`TextStream` for asyncio."""

    def __init__(
        self,
        call: "aio.UnaryStreamCall[pb.GenerateStreamRequest, pb.GenerateStreamResponse]",
        address: str,
        request_id: str,
    ) -> None:
        self._call: Final = call
        self._messages: Final = aiter(call)
        self._address: Final = address
        self._assembly: Final = Assembly(request_id=request_id)
        self._cancelled = False
        weakref.finalize(self, call.cancel).atexit = False

    @property
    def request_id(self) -> str:
        """The request's id; empty until the server has chosen one."""
        return self._assembly.request_id

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TextChunk:
        if self._cancelled:
            raise Cancelled("the request was cancelled", request_id=self.request_id)
        try:
            return self._assembly.add(await anext(self._messages))
        except grpc.RpcError as error:
            raise error_from_rpc(error, address=self._address, request_id=self.request_id) from error
        except asyncio.CancelledError:
            self._cancelled = True
            if own_task_is_cancelled():
                raise
            raise Cancelled("the request was cancelled", request_id=self.request_id) from None

    async def result(self) -> Generation:
        """The whole answer; reads what has not been read yet."""
        async for _ in self:
            pass
        return self._assembly.result()

    def cancel(self) -> None:
        """Ends the request on every stage; does nothing once it has ended."""
        self._cancelled = self._call.cancel() or self._cancelled

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


def own_task_is_cancelled() -> bool:
    """Whether an `asyncio.CancelledError` is meant for the running task.

    gRPC raises it also when only the call was cancelled, which is a `Cancelled` like any other.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
