"""What a request carries besides its record: its input, the payloads of its attempt, and who waits for the answer."""

from dataclasses import replace

from triptych.core.desk import Entry
from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason
from triptych.core.prompt import ImagePart
from triptych.core.request.states import Placed
from triptych.core.usage import Usage
from triptych.router.call import Admitted, Call
from triptych.router.timeline import Timeline
from triptych.stage.v1 import stage_pb2 as pb


class Work:
    """One request of this router, through all of its attempts.

    Args:
        entry: The request at the desk.
        request: Its input.
        call: Who waits.
        now: When it was accepted, in seconds of the router's clock.

    Attributes:
        handles: Embeddings of the current attempt, by image.
        ticket: The current attempt's right to write into a decode worker.
        worker_id: The last one that answers came from.
    """

    def __init__(self, entry: Entry, request: Admitted, call: Call, now: float) -> None:
        self.entry = entry
        self.request = request
        self.call = call
        self.timeline = Timeline(now)
        self.handles: dict[int, pb.EmbeddingHandle] = {}
        self.ticket: pb.Ticket | None = None
        self.cached_tokens: int | None = None
        self.worker_id = ""

    @property
    def stopped(self) -> bool:
        """Whether the text so far ends the answer."""
        return self.call.detokenizer.stopped

    def begin_attempt(self, now: float) -> None:
        """What the attempt before was given is void."""
        self.handles = {}
        self.ticket = None
        self.timeline.replayed(now)

    def drop_pictures(self) -> int:
        """Lets go of the pictures' bytes, which no attempt needs any more; how many those were."""
        size = self.request.picture_bytes
        if size:
            images = tuple(replace(image, part=ImagePart(b"")) for image in self.request.images)
            self.request = replace(self.request, images=images)
        return size

    def settle(self) -> None:
        """The attempt has its workers."""
        if isinstance(self.entry.record.state, Placed):
            plan = self.entry.record.state.plan
            self.worker_id = plan.decode
            self.call.workers = frozenset((*plan.encode, plan.prefill))

    def end(self, outcome: FinishReason | TriptychError, now: float) -> None:
        """Tells the client, as far as it listens."""
        if isinstance(outcome, TriptychError):
            self.call.fail(outcome)
        else:
            self.call.finish(outcome, self.usage(), self.timeline.finish(self.worker_id, now))

    def usage(self) -> Usage:
        """Token counts so far."""
        prompt = self.request.prompt
        return Usage(
            prompt_tokens=len(prompt.token_ids),
            completion_tokens=self.call.tokens,
            image_tokens=sum(prompt.rows),
            cached_tokens=self.cached_tokens or 0,
            replays=self.entry.record.past.replays,
        )
