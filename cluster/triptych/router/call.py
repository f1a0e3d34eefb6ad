"""A client that waits for its answer: tokens in, text out."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason, GeneratedToken
from triptych.core.plan import Demand
from triptych.core.prompt import MediaPart, Prompt
from triptych.core.sampling import SamplingParams
from triptych.core.usage import Span, Usage
from triptych.models.detokenize import IncrementalDetokenizer
from triptych.models.media import media_bytes
from triptych.models.pictures.layout import MediaLayout


@dataclass(frozen=True, slots=True)
class CheckedMedia:
    """An image or a video that passed the checks of the front door.

    Attributes:
        part: As it came.
        content_hash: Names its embedding.
        field: Where the request holds it.
        layout: What it becomes in the prompt.
    """

    part: MediaPart = field(repr=False)
    content_hash: str
    field: str
    layout: MediaLayout


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request whose input has been checked and tokenized, once.

    Attributes:
        sampling: With a seed and a length, whatever the caller left open.
        deadline: Seconds on the router's clock.
        digest: Of what the caller asked; the same for the same question.
        linger: Seconds that it goes on without its client.
        received: Token ids of the answer that a client which comes back has; None for a new request.
        ended: How the answer ends when `received` is all of it.
        of: Where this is a further answer to a request, that request's id.
        adapter: Name of the adapter that answers; empty for the model as it is.
    """

    request_id: str
    prompt: Prompt
    images: tuple[CheckedMedia, ...]
    sampling: SamplingParams
    demand: Demand
    deadline: float | None = None
    digest: bytes = b""
    linger: float = 0.0
    received: tuple[int, ...] | None = None
    ended: FinishReason | None = None
    of: str = ""
    adapter: str = ""

    @property
    def client_id(self) -> str:
        """The id that the client knows."""
        return self.of or self.request_id

    @property
    def picture_bytes(self) -> int:
        """What its pictures weigh."""
        return sum(media_bytes(image.part) for image in self.images)


def choice_id(request_id: str, index: int) -> str:
    """The id of answer `index` to a request: the request's own for answer 0, as if it were the only one."""
    return f"{request_id}#{index}" if index else request_id


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens for the client, and the text that became final with them."""

    text: str
    tokens: tuple[GeneratedToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete.

    Attributes:
        text: What was held back. It has no token of its own, so it must not arrive without the end: a client that
            came back in between would get it twice.
    """

    reason: FinishReason
    usage: Usage
    timeline: tuple[Span, ...]
    text: str = ""


Output = Piece | Finished | TriptychError


class Call:
    """One connection of a client that waits for one answer.

    Args:
        request_id: Of the request.
        detokenizer: Knows the tokens that the client has.
        received: How many those are.
        client_id: What the client calls the request, where that is another id.

    Attributes:
        tokens: Of the answer, those that the client had and those that it was given.
        workers: Who computed the prompt, and its images, last; they keep both for a while.
    """

    def __init__(
        self, request_id: str, detokenizer: IncrementalDetokenizer, received: int = 0, client_id: str = ""
    ) -> None:
        self.request_id = request_id
        self.client_id = client_id or request_id
        self.detokenizer = detokenizer
        self.tokens = received
        self.workers: frozenset[str] = frozenset()
        self._outputs: asyncio.Queue[Output] = asyncio.Queue()

    def deliver(self, tokens: Iterable[GeneratedToken]) -> None:
        """Hands tokens on as text; those after a stop text are dropped."""
        for token in tokens:
            if self.detokenizer.stopped:
                return
            self.tokens += 1
            self._outputs.put_nowait(Piece(self.detokenizer.push([token.token_id]), (token,)))

    def finish(self, outcome: FinishReason, usage: Usage, timeline: tuple[Span, ...]) -> None:
        """Hands the end on."""
        rest = self.detokenizer.finish()
        reason = FinishReason.STOP if self.detokenizer.stopped else outcome
        self._outputs.put_nowait(Finished(reason, usage, timeline, rest))

    def fail(self, error: TriptychError) -> None:
        """Hands the error on; one that comes after the end is not heard."""
        error.request_id = error.request_id or self.client_id
        self._outputs.put_nowait(error)

    async def outputs(self) -> AsyncIterator[Piece | Finished]:
        """Pieces as they come, those that are ready together merged into one, then the end.

        Raises:
            TriptychError: the request failed.
        """
        while True:
            output = await self._outputs.get()
            pieces: list[Piece] = []
            while isinstance(output, Piece):
                pieces.append(output)
                if self._outputs.empty():
                    break
                output = self._outputs.get_nowait()
            if pieces:
                yield Piece("".join(p.text for p in pieces), tuple(t for p in pieces for t in p.tokens))
            if isinstance(output, TriptychError):
                raise output
            if isinstance(output, Finished):
                yield output
                return
