"""A request for vectors: its texts, the payload of its attempts, and who waits for them."""

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triptych.core.desk import Entry
from triptych.core.errors import Internal, TriptychError
from triptych.core.generation import FinishReason
from triptych.core.plan import Demand, Goal
from triptych.core.request.states import Placed
from triptych.core.usage import Span, Usage
from triptych.router.timeline import Timeline
from triptych.stage.v1 import stage_pb2 as pb


@dataclass(frozen=True, slots=True)
class AdmittedTexts:
    """A request whose texts have been checked and tokenized, once.

    Attributes:
        texts: Token ids of each.
        dimensions: Numbers of a vector.
        deadline: Seconds on the router's clock.
    """

    request_id: str
    texts: tuple[tuple[int, ...], ...]
    dimensions: int
    deadline: float | None = None

    @property
    def client_id(self) -> str:
        """The id that the client knows."""
        return self.request_id

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(map(len, self.texts))

    @property
    def demand(self) -> Demand:
        """What it asks of the fleet."""
        return Demand(self.tokens, goal=Goal.VECTORS)


@dataclass(frozen=True, slots=True)
class Vectors:
    """The end of such a request; `values` are [texts, dimensions] float32."""

    values: NDArray[np.float32]
    usage: Usage
    timeline: tuple[Span, ...]


class VectorCall:
    """One connection of a client that waits for vectors."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self._end: asyncio.Future[Vectors | TriptychError] = asyncio.get_running_loop().create_future()

    def finish(self, end: Vectors | TriptychError) -> None:
        """Hands the end on; only the first is heard."""
        if not self._end.done():
            self._end.set_result(end)

    def fail(self, error: TriptychError) -> None:
        """Hands an error on."""
        error.request_id = error.request_id or self.request_id
        self.finish(error)

    async def result(self) -> Vectors:
        """Waits for the vectors.

        Raises:
            TriptychError: there will be none.
        """
        match end := await self._end:
            case Vectors():
                return end
            case _:
                raise end


class TextWork:
    """One request of this router, through all of its attempts; as `Work` is for answers.

    Args:
        entry: The request at the desk.
        request: Its texts.
        call: Who waits.
        now: When it was accepted, in seconds of the router's clock.
    """

    stopped = False

    def __init__(self, entry: Entry, request: AdmittedTexts, call: VectorCall, now: float) -> None:
        self.entry = entry
        self.request = request
        self.call = call
        self.timeline = Timeline(now)
        self.worker_id = ""
        self._values: NDArray[np.float32] | None = None

    def begin_attempt(self, now: float) -> None:
        """What the attempt before was given is void."""
        self._values = None
        self.timeline.replayed(now)

    def drop_pictures(self) -> int:
        """It has none."""
        return 0

    def settle(self) -> None:
        """The attempt has its worker."""
        if isinstance(self.entry.record.state, Placed):
            self.worker_id = self.entry.record.state.plan.prefill

    def keep(self, message: pb.Embedded, worker_id: str, now: float) -> None:
        """The vectors are here.

        Raises:
            Internal: they are not so many as were asked for.
        """
        shape = len(self.request.texts), self.request.dimensions
        if len(message.vectors) != 4 * shape[0] * shape[1]:
            raise Internal(f"worker {worker_id} sent {len(message.vectors)} bytes, expected {shape} float32")
        self.timeline.embedded(worker_id, message.times, now)
        self._values = np.frombuffer(message.vectors, "<f4").reshape(shape)

    def end(self, outcome: FinishReason | TriptychError, now: float) -> None:
        """Tells the client, if it listens."""
        if isinstance(outcome, TriptychError):
            self.call.fail(outcome)
            return
        assert self._values is not None, "the request has ended without its vectors"
        usage = Usage(self.request.tokens, 0, replays=self.entry.record.past.replays)
        self.call.finish(Vectors(self._values, usage, self.timeline.finish(self.worker_id, now)))
