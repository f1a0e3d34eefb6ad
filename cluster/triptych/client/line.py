"""The calls of one request, one after the other, until it is answered or given up."""

import asyncio
import contextlib
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import grpc

from triptych.client.pursuit import Pursuit

FAREWELL_SECONDS: Final = 1.0
now = time.monotonic


class Call(Protocol):
    """What every call of gRPC is."""

    def cancel(self) -> bool:
        """Ends the call; whether it had not ended before."""


C = TypeVar("C", bound=Call)


class Line(Generic[C]):
    """What a blocking client holds of a request. `cut` may be called from any thread.

    Args:
        pursuit: Decides.
        dial: Begins a call that may take so many seconds.
        forsake: For a request that outlives its calls: tells the server to end it, and then ends the call.
    """

    def __init__(
        self, pursuit: Pursuit, dial: Callable[[float | None], C], forsake: Callable[[Call], None] | None = None
    ) -> None:
        self.pursuit: Final = pursuit
        self._dial: Final = dial
        self._forsake: Final = forsake
        self._cut: Final = threading.Event()
        self.call = dial(pursuit.timeout(now()))

    def require_wanted(self) -> None:
        """Raises `Cancelled` once the line was cut, unless the request was over by then."""
        if self._cut.is_set() and not self.pursuit.over:
            raise self.pursuit.cancelled()

    def redial(self, error: grpc.RpcError, received: Sequence[Sequence[int]]) -> None:
        """Waits and calls again after `error`, for what follows the `received` tokens of each answer.

        Raises:
            TriptychError: there is no sense in it, no time left, or the line was cut.
        """
        if self._cut.is_set():
            raise self.pursuit.cancelled() from error
        if self._cut.wait(self.pursuit.failed(error, received, now(), random.random())):
            raise self.pursuit.cancelled() from error
        self.call = self._dial(self.pursuit.timeout(now()))
        if self._cut.is_set():  # after the last look, before there was a call to cancel
            self.call.cancel()

    def cut(self) -> None:
        """Ends the request, whether it is being answered or waits for its server."""
        if self._cut.is_set():
            return
        self._cut.set()
        if self._forsake and not self.pursuit.over:
            self._forsake(self.call)
        else:
            self.call.cancel()


class AsyncLine(Generic[C]):
    """`Line` for asyncio."""

    def __init__(
        self, pursuit: Pursuit, dial: Callable[[float | None], C], forsake: Callable[[Call], None] | None = None
    ) -> None:
        self.pursuit: Final = pursuit
        self._dial: Final = dial
        self._forsake: Final = forsake
        self._cut: Final = asyncio.Event()
        self.call = dial(pursuit.timeout(now()))

    def require_wanted(self) -> None:
        """As `Line.require_wanted`."""
        if self._cut.is_set() and not self.pursuit.over:
            raise self.pursuit.cancelled()

    async def redial(self, error: grpc.RpcError, received: Sequence[Sequence[int]]) -> None:
        """As `Line.redial`."""
        if self._cut.is_set():
            raise self.pursuit.cancelled() from error
        with contextlib.suppress(TimeoutError):
            wait = self.pursuit.failed(error, received, now(), random.random())
            await asyncio.wait_for(self._cut.wait(), wait)
            raise self.pursuit.cancelled() from error
        self.call = self._dial(self.pursuit.timeout(now()))

    def cut(self) -> None:
        """As `Line.cut`; belongs to the event loop."""
        if self._cut.is_set():
            return
        self._cut.set()
        if self._forsake and not self.pursuit.over:
            self._forsake(self.call)
        else:
            self.call.cancel()


class Cuttable(Protocol):
    """A line of either kind."""

    def cut(self) -> None:
        """Ends the request."""


class Lines:
    """The lines of one client, as long as somebody uses them."""

    def __init__(self) -> None:
        self._lines: Final[weakref.WeakSet[Cuttable]] = weakref.WeakSet()
        self._lock: Final = threading.Lock()

    def add(self, line: Cuttable) -> None:
        """One more."""
        with self._lock:
            self._lines.add(line)

    def cut(self) -> None:
        """Ends them all."""
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            line.cut()
