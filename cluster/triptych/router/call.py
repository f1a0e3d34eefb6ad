"""One running request: its record, the payloads that the core does not look at, and its way back to the client."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason, GeneratedToken
from triptych.core.load import Load
from triptych.core.plan import Demand, Plan
from triptych.core.prompt import Prompt
from triptych.core.request import Record
from triptych.core.sampling import SamplingParams
from triptych.core.usage import Span, Usage
from triptych.models.detokenize import IncrementalDetokenizer
from triptych.router.timeline import Timeline
from triptych.stage.v1 import stage_pb2 as pb


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """A picture that passed the checks of the front door; `field` is where the request holds it."""

    data: bytes = field(repr=False)
    content_hash: str
    field: str


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
    """

    request_id: str
    prompt: Prompt
    images: tuple[CheckedImage, ...]
    sampling: SamplingParams
    demand: Demand
    deadline: float | None = None
    digest: bytes = b""
    linger: float = 0.0
    received: tuple[int, ...] | None = None
    ended: FinishReason | None = None


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
    """State that belongs to one request on this router."""

    def __init__(self, request: Admitted, record: Record, detokenizer: IncrementalDetokenizer, now: float) -> None:
        self.request = request
        self.record = record
        self.detokenizer = detokenizer
        self.timeline = Timeline(now)
        self.plan: Plan | None = None
        self.load: dict[str, Load] = {}
        self.handles: dict[int, pb.EmbeddingHandle] = {}
        self.ticket: pb.Ticket | None = None
        self.emitted: list[int] = []
        self.cached_tokens = 0
        self._outputs: asyncio.Queue[Output] = asyncio.Queue()

    def drop_pictures(self) -> None:
        """Lets go of the pictures' bytes, once every encode worker has been sent its own."""
        images = tuple(replace(image, data=b"") for image in self.request.images)
        self.request = replace(self.request, images=images)

    def usage(self) -> Usage:
        """Token counts so far."""
        prompt = self.request.prompt
        image_tokens = sum(span.length for span in prompt.image_spans)
        return Usage(len(prompt.token_ids), len(self.emitted), image_tokens, self.cached_tokens)

    def deliver(self, tokens: tuple[GeneratedToken, ...]) -> None:
        """Hands tokens on as text; those after a stop text are dropped."""
        for token in tokens:
            if self.detokenizer.stopped:
                return
            self.emitted.append(token.token_id)
            self._outputs.put_nowait(Piece(self.detokenizer.push([token.token_id]), (token,)))

    def end(self, outcome: FinishReason | TriptychError, now: float) -> None:
        """Hands the end on."""
        if isinstance(outcome, TriptychError):
            outcome.request_id = outcome.request_id or self.request.request_id
            self._outputs.put_nowait(outcome)
            return
        rest = self.detokenizer.finish()
        reason = FinishReason.STOP if self.detokenizer.stopped else outcome
        decode = self.plan.decode if self.plan else ""
        self._outputs.put_nowait(Finished(reason, self.usage(), self.timeline.finish(decode, now), rest))

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
