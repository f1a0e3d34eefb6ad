"""The sending half of a KV transfer: chunks to each destination one at a time and in order, until fenced."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from triptych.core.errors import DataLoss, FailedPrecondition, TriptychError, Unavailable
from triptych.core.generation import OperationKey
from triptych.simulator.machine import Machine
from triptych.simulator.memory import KvMemory
from triptych.simulator.messages import Ticket
from triptych.simulator.mischief import Damage
from triptych.simulator.receiver import Ack, Broken, Chunk, Nak, Refused, Reply
from triptych.simulator.tokens import checksum

STALL_SECONDS = 30.0
FENCE_SECONDS = 1.0
MAX_LOSSES = 1


@dataclass(slots=True, eq=False)
class Job:
    """One chunk; `done` hears what became of it, once."""

    key: OperationKey
    ticket: Ticket
    first: int
    blocks: list[int]
    last: bool
    done: Callable[[TriptychError | None], None]
    losses: int = 0
    fenced: bool = False


@dataclass(slots=True)
class Channel:
    """What goes to one process."""

    queue: deque[Job] = field(default_factory=deque)
    flying: Job | None = None
    flight: int = 0
    landed: list[Callable[[], None]] = field(default_factory=list)


class Sender:
    """Sends KV from one worker's memory.

    Args:
        machine: Where it runs.
        memory: What it sends.
        block_bytes: For the time on the wire.
    """

    def __init__(self, machine: Machine, memory: KvMemory, block_bytes: int) -> None:
        self._machine = machine
        self._memory = memory
        self._block_bytes = block_bytes
        self._channels: dict[tuple[str, str], Channel] = {}

    @property
    def busy(self) -> int:
        """Chunks that are not over."""
        return sum(len(c.queue) + (c.flying is not None) for c in self._channels.values())

    def send(self, job: Job) -> None:
        """Queues a chunk."""
        channel = self._channels.setdefault((job.ticket.worker_id, job.ticket.incarnation), Channel())
        channel.queue.append(job)
        self._pump(channel)

    def fence(self, ticket_id: str, fenced: Callable[[], None]) -> None:
        """Drops a ticket's chunks; `fenced` is called when none of them is read any more."""
        for channel in self._channels.values():
            dropped = [job for job in channel.queue if job.ticket.ticket_id == ticket_id]
            channel.queue = deque(job for job in channel.queue if job.ticket.ticket_id != ticket_id)
            for job in dropped:
                job.done(Unavailable(f"the transfer of ticket {ticket_id} was cancelled"))
            flying = channel.flying
            if flying and flying.ticket.ticket_id == ticket_id:
                flying.fenced = True
                channel.landed.append(fenced)
                self._machine.after(FENCE_SECONDS, partial(self._cut, channel, flying))
                return
        fenced()

    def _pump(self, channel: Channel) -> None:
        if channel.flying is None and channel.queue:
            channel.flying = channel.queue.popleft()
            self._transmit(channel, channel.flying)

    def _transmit(self, channel: Channel, job: Job) -> None:
        machine = self._machine
        channel.flight += 1
        flight = channel.flight
        values = [self._memory.values[block] for block in job.blocks]
        size = len(values) * self._block_bytes
        damage = machine.world.mischief.of_transfer()
        payload = damaged(values, damage)
        chunk = Chunk(job.ticket.ticket_id, job.first, tuple(payload), len(values), job.last, checksum(values), size)
        target = machine.world.process(job.ticket.worker_id, job.ticket.incarnation)
        machine.note(job.ticket.worker_id, f"blocks {job.first}+{len(values)} of {chunk.ticket_id}{damage.suffix}")
        if target is None or target.receiver is None:
            machine.after(2 * machine.world.spec.network.latency, lambda: self._lose(channel, job, flight))
            return
        receiver = target.receiver
        wire = machine.world.network.wire(machine.name, target.name)

        def answer(reply: Reply) -> None:
            back = machine.world.network.wire(target.name, machine.name)
            machine.world.network.carry(back, lambda: self._answered(channel, job, flight, reply), machine.movers)

        machine.world.network.carry(wire, lambda: receiver.arrive(chunk, answer), target.movers, size, ordered=False)
        target.when_dead(machine.movers, lambda: self._lose(channel, job, flight))
        machine.after(STALL_SECONDS, lambda: self._lose(channel, job, flight))

    def _answered(self, channel: Channel, job: Job, flight: int, reply: Reply) -> None:
        if channel.flying is not job or channel.flight != flight:
            return
        match reply:
            case Ack():
                self._land(channel, job, None)
            case Nak() if not job.fenced:
                self._transmit(channel, job)
            case Nak():
                self._land(channel, job, DataLoss("the transfer was cancelled"))
            case Refused(error):
                self._drop_behind(channel, job, error)
                self._land(channel, job, error)
            case Broken():
                self._lose(channel, job, flight)

    def _lose(self, channel: Channel, job: Job, flight: int) -> None:
        """The connection is gone under a chunk, which is sent once more over another one."""
        if channel.flying is not job or channel.flight != flight:
            return
        error = Unavailable(f"worker {job.ticket.worker_id} cannot be reached")
        if job.fenced:
            self._land(channel, job, error)
        elif job.losses < MAX_LOSSES:
            job.losses += 1
            self._transmit(channel, job)
        else:
            dropped, channel.queue = list(channel.queue), deque()
            for other in dropped:
                other.done(error)
            self._land(channel, job, error)

    def _cut(self, channel: Channel, job: Job) -> None:
        """A chunk that was fenced has had its time."""
        self._lose(channel, job, channel.flight)

    def _drop_behind(self, channel: Channel, job: Job, error: TriptychError) -> None:
        behind = [other for other in channel.queue if other.ticket.ticket_id == job.ticket.ticket_id]
        channel.queue = deque(other for other in channel.queue if other.ticket.ticket_id != job.ticket.ticket_id)
        for other in behind:
            other.done(error)

    def _land(self, channel: Channel, job: Job, error: TriptychError | None) -> None:
        channel.flying = None
        landed, channel.landed = channel.landed, []
        job.done(transient(error) if error else None)
        for fenced in landed:
            fenced()
        self._pump(channel)


def transient(error: TriptychError) -> TriptychError:
    """As workers report it: whatever went wrong with a transfer, a new attempt may heal it."""
    return Unavailable(error.message) if isinstance(error, FailedPrecondition) else error


def damaged(values: list[int], damage: Damage) -> list[int]:
    """What arrives of a payload."""
    match damage:
        case Damage.CORRUPT:
            return [*values[:-1], values[-1] ^ 1]
        case Damage.TRUNCATED:
            return values[: len(values) // 2]
        case Damage.NONE:
            return values
