"""One request at the desk: its record, and what all of its attempts share."""

from dataclasses import dataclass, field

from triptych.core.errors import Internal, TriptychError
from triptych.core.fleet.load import Load
from triptych.core.generation import FinishReason, GeneratedToken
from triptych.core.plan import Demand
from triptych.core.request.record import ATTEMPT_BITS, Record, Terms
from triptych.core.request.states import Ended, Failed, Finished


@dataclass(frozen=True, slots=True)
class Submission:
    """A request as it comes in, checked.

    Attributes:
        request_id: Also the idempotency key.
        demand: What it asks of the fleet.
        terms: What was agreed.
        digest: Of everything that determines the answer: two requests of one id must agree in it.
        received: Tokens of the answer that its client has, when it comes back; None for a new request.
        complete: How the answer ended, when those tokens are all of it.
        follows: It is another answer to a request that was let in: it waits for workers, and is not sent away.
    """

    request_id: str
    demand: Demand
    terms: Terms
    digest: bytes = b""
    received: tuple[int, ...] | None = None
    complete: FinishReason | None = None
    follows: bool = False


@dataclass(slots=True, eq=False)
class Entry:
    """A request that the desk owns.

    Attributes:
        record: Where it is.
        demand: What it asks of the fleet.
        digest: See `Submission`.
        answer: Every token so far; the first ones, where the client brought them, without log-probabilities.
        load: What is booked for it, by worker.
    """

    record: Record
    demand: Demand
    digest: bytes
    answer: list[GeneratedToken]
    load: dict[str, Load] = field(default_factory=dict)

    @property
    def request_id(self) -> str:
        """The caller's id, or the one that was given."""
        return self.record.key.request_id

    @property
    def serial(self) -> tuple[str, int]:
        """What all epochs of this request share, and no other request's."""
        return self.request_id, self.record.key.epoch >> ATTEMPT_BITS

    @property
    def running(self) -> bool:
        """Whether the answer is still being made."""
        return not isinstance(self.record.state, Ended)

    @property
    def outcome(self) -> FinishReason | TriptychError:
        """How the request ended.

        Raises:
            Internal: it has not.
        """
        match self.record.state:
            case Finished(reason):
                return reason
            case Failed(error):
                return error
            case state:
                raise Internal(f"request {self.request_id} has not ended; it is {type(state).__name__}")

    def token_ids(self, count: int) -> list[int]:
        """The first `count` tokens of the answer."""
        return [token.token_id for token in self.answer[:count]]


@dataclass(slots=True)
class Counters:
    """Totals since the desk was opened; `replayed_tokens` were computed a second time."""

    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    generated_tokens: int = 0
    replays: int = 0
    replayed_tokens: int = 0
    resumed: int = 0
