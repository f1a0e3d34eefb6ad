"""What a decoder worker knows of one operation besides its sequence."""

from dataclasses import dataclass, field

from triptych.core.generation import OperationKey
from triptych.engine.sequence import Sequence
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.session import Session


@dataclass(slots=True)
class Outgoing:
    """KV on its way to a decode worker.

    Attributes:
        blocks_sent: Leading blocks of the sequence that were handed to the sender.
    """

    ticket: pb.Ticket
    blocks_sent: int = 0


@dataclass(slots=True)
class Incoming:
    """KV on its way from a prefill worker.

    Attributes:
        ticket_id: Empty until blocks are reserved.
        arrived: All blocks are here.
        emitted: Tokens that the prefill worker produced, once the router has sent Decode.
    """

    ticket_id: str = ""
    arrived: bool = False
    emitted: list[int] | None = None


@dataclass(slots=True)
class Times:
    """Monotonic seconds of a prefill's steps."""

    received: float
    input_seconds: float = 0.0
    first_step: float | None = None


@dataclass(slots=True, eq=False)
class Job:
    """One operation of one router, from its command until its Free is done.

    Attributes:
        deadline: Monotonic seconds after which nobody wants the answer.
        awaits_first_token: The next token answers Prefill.
        pulling: Embeddings are on their way.
        failed: The router has been told; only Free is still to come.
        freeing: Free has come and waits for the fences.
    """

    session: Session
    times: Times
    deadline: float | None
    sequence: Sequence
    media: tuple[pb.MediaSpan, ...] = ()
    outgoing: Outgoing | None = None
    incoming: Incoming | None = None
    awaits_first_token: bool = False
    pulling: bool = False
    failed: bool = False
    freeing: bool = False

    @property
    def key(self) -> OperationKey:
        """The operation."""
        return self.sequence.key

    @property
    def active(self) -> bool:
        """Whether its router still expects something else than Freed."""
        return not self.failed and not self.freeing

    def proto_key(self) -> pb.OperationKey:
        """The key in its wire form."""
        return pb.OperationKey(request_id=self.key.request_id, epoch=self.key.epoch)


@dataclass(slots=True)
class JobBook:
    """All jobs of a worker, by key and by ticket."""

    by_key: dict[OperationKey, Job] = field(default_factory=dict)
    by_ticket: dict[str, Job] = field(default_factory=dict)

    def add(self, job: Job) -> None:
        """Takes a new job in."""
        self.by_key[job.key] = job

    def remove(self, job: Job) -> None:
        """Forgets a job."""
        del self.by_key[job.key]
        if job.incoming:
            self.by_ticket.pop(job.incoming.ticket_id, None)


def key_of(key: pb.OperationKey) -> OperationKey:
    """The domain form of a wire key."""
    return OperationKey(key.request_id, key.epoch)
