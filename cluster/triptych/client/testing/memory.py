"""What the fake cluster knows of its requests."""

import threading
from dataclasses import dataclass, field, replace
from typing import Final

from triptych.core.errors import AlreadyExists, InvalidArgument, Unavailable
from triptych.core.inputs import GenerationInput
from triptych.core.resuming import FIELD

RETRY_AFTER: Final = 0.01


@dataclass(slots=True)
class Run:
    """One request, from its first connection to its end."""

    request: GenerationInput
    ended: threading.Event = field(default_factory=threading.Event)
    settled: bool = False
    """The server has decided how the connection ends, so that its client's leaving is no surprise."""


class Memory:
    """Requests that run, or whose connection was dropped; and how far the script's losses have come.

    Args:
        tokens: How many tokens an answer has.
    """

    def __init__(self, tokens: int) -> None:
        self.runs: Final[dict[str, Run]] = {}
        self._tokens: Final = tokens
        self._refusals: Final[dict[str, int]] = {}
        self._lost: Final[set[tuple[str, int]]] = set()

    def begin(self, request_id: str, request: GenerationInput) -> Run:
        """A client asks for a request, or for the rest of its answer.

        Raises:
            Unavailable: the script still refuses it.
            AlreadyExists: it is known, and the client does not say that it comes back, or asks something else.
            InvalidArgument: the client has other tokens than it was sent.
        """
        if left := self._refusals.get(request_id, 0):
            self._refusals[request_id] = left - 1
            raise Unavailable("no worker is ready", retry_after=RETRY_AFTER, request_id=request_id)
        asked, known = replace(request, resume=None, resume_others=()), self.runs.get(request_id)
        if known and (request.resume is None or known.request != asked):
            raise AlreadyExists(f"a request with id {request_id!r} is running", field="request_id")
        received = request.resume or ()
        if received != tuple(range(len(received))) or len(received) > self._tokens:
            raise InvalidArgument(f"{FIELD} are not the tokens of this answer: {received}", field=FIELD)
        run = self.runs[request_id] = Run(asked)
        return run

    def finish(self, request_id: str, run: Run) -> None:
        """The request is over."""
        if self.runs.get(request_id) is run:
            del self.runs[request_id]

    def lose(self, request_id: str, place: int, refusals: int) -> bool:
        """Whether the request comes to a loss, the step at `place`, for the first time."""
        if (request_id, place) in self._lost:
            return False
        self._lost.add((request_id, place))
        self._refusals[request_id] = refusals
        return True

    def forget(self) -> None:
        """A restart: no request is known any more."""
        self.runs.clear()
