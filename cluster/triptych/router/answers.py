"""The answers that one client waits for: n requests of the core, each with an id of its own, behind one call."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from triptych.core.errors import TriptychError
from triptych.core.usage import Usage
from triptych.models.detokenize import IncrementalDetokenizer
from triptych.router.call import Admitted, Call, Finished, Piece
from triptych.router.dispatch import Dispatcher

Candidate: TypeAlias = tuple[Admitted, IncrementalDetokenizer]
"""A request that has been let in, and what makes text of its answer."""


class Part(NamedTuple):
    """What is new of one answer; `usage`, of all answers, comes with the very last part."""

    choice: int
    output: Piece | Finished
    usage: Usage | None = None


class Answers:
    """Runs the answers of one request, and ends them together.

    The prompt is computed once: the others begin when answer 0 has its first token, on the same workers as long as
    they have room, and find its KV and its embeddings there. They were let in with it, so that they wait for workers
    and are not sent away. A client that comes back has all of its answers go on at once.

    Args:
        dispatcher: Runs them.
        candidates: Every answer, in order.
        accepted: When the request arrived, in seconds of the router's clock.

    Attributes:
        seats: The places of those that have not begun.
    """

    def __init__(self, dispatcher: Dispatcher, candidates: Sequence[Candidate], accepted: float) -> None:
        self.candidates = candidates
        self.seats = contextlib.ExitStack()
        self._dispatcher = dispatcher
        self._accepted = accepted
        self._calls: list[Call] = []
        self._pumps: list[asyncio.Task[None]] = []

    def begin(self) -> bool:
        """Submits answer 0, and the others of a client that comes back; whether there are some that begin later.

        Raises:
            TriptychError: as `Dispatcher.submit`; then none of them runs.
        """
        first, detokenizer = self.candidates[0]
        self._calls.append(self._dispatcher.submit(first, detokenizer, self._accepted))
        if first.received is None:
            return len(self.candidates) > 1
        try:
            self._begin_others()
        except TriptychError:
            self.leave(None)
            raise
        return False

    @property
    def request_id(self) -> str:
        """The id that the client knows."""
        return self.candidates[0][0].request_id

    async def parts(self) -> AsyncIterator[Part]:
        """What is new of every answer, up to the end of the last one.

        Raises:
            TriptychError: one of them failed.
        """
        if len(self.candidates) == 1:
            async for output in self._calls[0].outputs():
                yield Part(0, output, output.usage if isinstance(output, Finished) else None)
            return
        ready: asyncio.Queue[Part | TriptychError] = asyncio.Queue(1)  # what has no room there is merged by its call
        self._listen(ready)
        usages: dict[int, Usage] = {}
        while len(usages) < len(self.candidates):
            part = await ready.get()
            if isinstance(part, TriptychError):
                raise part
            if len(self._calls) < len(self.candidates):
                self._begin_others()
                self._listen(ready)
            if isinstance(part.output, Finished):
                usages[part.choice] = part.output.usage
                part = part._replace(usage=_together(usages) if len(usages) == len(self.candidates) else None)
            yield part

    def leave(self, error: TriptychError | None) -> None:
        """The client's connection has ended; without an error, because it was told the end: what still runs ends."""
        for pump in self._pumps:
            pump.cancel()
        for call in self._calls:
            self._dispatcher.leave(call, error)
        self.seats.close()

    def _begin_others(self) -> None:
        near = self._calls[0].workers
        for admitted, detokenizer in self.candidates[1:]:
            placed = replace(admitted, demand=replace(admitted.demand, near=near))
            self._calls.append(self._dispatcher.submit(placed, detokenizer, self._accepted))
        self.seats.close()

    def _listen(self, ready: "asyncio.Queue[Part | TriptychError]") -> None:
        """Has the calls that nobody listens to yet put their outputs into one queue."""
        for index in range(len(self._pumps), len(self._calls)):
            self._pumps.append(asyncio.create_task(_pump(index, self._calls[index], ready)))


async def _pump(index: int, call: Call, ready: "asyncio.Queue[Part | TriptychError]") -> None:
    try:
        async for output in call.outputs():
            await ready.put(Part(index, output))
    except TriptychError as error:
        await ready.put(error)


def _together(usages: Mapping[int, Usage]) -> Usage:
    """The prompt counts once, as answer 0 found it; answers and replays add up."""
    return replace(
        usages[0],
        completion_tokens=sum(usage.completion_tokens for usage in usages.values()),
        replays=sum(usage.replays for usage in usages.values()),
    )
