"""A router's commands as `core.jobs` takes them, and what it does not need to know of an operation."""

from dataclasses import dataclass

from triptych.core.errors import InvalidArgument
from triptych.core.generation import OperationKey
from triptych.core.jobs.commands import Prefill, Reserve, SessionId
from triptych.engine.core import EngineCore
from triptych.engine.sequence import Goal, Media, Sequence
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.prompts import check_tokens, checked_sequence


@dataclass(slots=True, eq=False)
class Payload:
    """Tokens, tensors and addresses of one operation.

    Attributes:
        router_id: Whose heartbeats renew its lease.
        media: Where its embeddings are.
        ticket: Where its KV goes; empty when it stays here.
        pulled: Embeddings that have come, until the sequence gets them.
    """

    router_id: str
    sequence: Sequence
    media: tuple[pb.MediaSpan, ...]
    ticket: pb.Ticket
    pulled: tuple[Media, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the answer has come as far as it may, or as this worker has room for: there is nothing to do."""
        return len(self.sequence.token_ids) >= self.sequence.limit

    def with_embeddings(self) -> Sequence:
        """The sequence, ready to be computed."""
        self.sequence.media = self.pulled or self.sequence.media
        return self.sequence

    def go_on_after(self, emitted: tuple[int, ...]) -> None:
        """The KV of all tokens has been received; the answer has come this far."""
        self.sequence.computed = len(self.sequence.token_ids)
        self.sequence.token_ids[self.sequence.prompt_length :] = emitted


def key_of(key: pb.OperationKey) -> OperationKey:
    """The domain form of a wire key."""
    return OperationKey(key.request_id, key.epoch)


def prefill_of(request: pb.Prefill, session: SessionId, received: float) -> Prefill:
    """Args: the command, whose it is, and when it came, in monotonic seconds."""
    return Prefill(
        session,
        key_of(request.key),
        received,
        length=len(request.token_ids) + len(request.emitted_token_ids),
        answered=len(request.emitted_token_ids),
        embeddings=len(request.media),
        ticket_id=request.ticket.ticket_id,
        deadline=_deadline(received, request.timeout_ms),
    )


def reserve_of(request: pb.Reserve, session: SessionId, received: float, ticket_id: str) -> Reserve:
    """Args: as `prefill_of`, and the name of the lease to come."""
    return Reserve(
        session,
        key_of(request.key),
        received,
        length=len(request.prompt_token_ids) + len(request.emitted_token_ids),
        ticket_id=ticket_id,
        answered=len(request.emitted_token_ids),
        deadline=_deadline(received, request.timeout_ms),
    )


def payload_of(request: pb.Prefill | pb.Reserve, router_id: str, core: EngineCore) -> Payload:
    """The rest of a command.

    Raises:
        TriptychError: as `checked_sequence`.
    """
    match request:
        case pb.Prefill():
            prompt, ticket = request.token_ids, request.ticket
        case pb.Reserve():
            prompt, ticket = request.prompt_token_ids, pb.Ticket()
    goal = Goal.FIRST_TOKEN if ticket.ticket_id else Goal.ANSWER
    sequence = checked_sequence(key_of(request.key), request, list(prompt), goal, core)
    return Payload(router_id, sequence, tuple(request.media), ticket)


def emitted_of(request: pb.Decode, sequence: Sequence, vocabulary: int) -> tuple[int, ...]:
    """The answer so far, which the KV that was received is the beginning of.

    Raises:
        InvalidArgument: there is none, a token is not in the vocabulary, or the KV is of another answer.
    """
    emitted = list(request.emitted_token_ids)
    check_tokens(emitted, vocabulary)
    known = sequence.token_ids[sequence.prompt_length :]
    if emitted[: len(known)] != known:
        raise InvalidArgument("Decode goes on from another answer than Reserve", field="emitted_token_ids")
    return tuple(emitted)


def _deadline(received: float, timeout_ms: int) -> float | None:
    return received + timeout_ms / 1000 if timeout_ms else None
