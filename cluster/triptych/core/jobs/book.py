"""All operations of a decoder worker."""

from typing import Protocol, assert_never

from triptych.core.errors import Unavailable
from triptych.core.generation import OperationKey
from triptych.core.jobs import actions as do
from triptych.core.jobs import events as ev
from triptych.core.jobs.audit import Audit
from triptych.core.jobs.commands import Command, Decode, Drain, Free, Prefill, Reserve, SessionId
from triptych.core.jobs.deadlines import Deadlines
from triptych.core.jobs.ending import Step
from triptych.core.jobs.prefilling import computed
from triptych.core.jobs.reserving import granted
from triptych.core.jobs.states import AwaitingBlocks, Freeing, Incoming, Operation, holding
from triptych.core.jobs.step import OperationEvent, begin, step

Actions = tuple[do.Action, ...]


class Pool(Protocol):
    """What is asked of the scheduler while deciding."""

    @property
    def waiting(self) -> int:
        """Sequences that wait for blocks or for a place in the batch, and not for embeddings."""

    def reserve(self, key: OperationKey) -> bool:
        """Takes the blocks of a reservation; False when there are not enough now beside what was promised."""


class Jobs:
    """From each command to the end of its Free.

    Args:
        worker: The worker's name, for errors.
        block_size: Tokens per KV block.
    """

    def __init__(self, worker: str, block_size: int) -> None:
        self._worker = worker
        self._block_size = block_size
        self._operations: dict[OperationKey, Operation] = {}
        self._tickets: dict[str, OperationKey] = {}
        self._awaiting_blocks: dict[OperationKey, None] = {}
        self._leased: set[OperationKey] = set()
        self._deadlines = Deadlines()
        self._draining = False

    @property
    def operations(self) -> int:
        """Operations that are not over; without any, nothing is held."""
        return len(self._operations)

    @property
    def waiting(self) -> int:
        """Reservations that there are no blocks for yet."""
        return len(self._awaiting_blocks)

    @property
    def open_leases(self) -> int:
        """Reservations that somebody may write."""
        return len(self._leased)

    @property
    def next_deadline(self) -> float | None:
        """When `expire` has something to do, in monotonic seconds."""
        return self._deadlines.next

    def find(self, key: OperationKey) -> Operation | None:
        """The operation, unless it is over or was never heard of."""
        return self._operations.get(key)

    def audit(self) -> Audit:
        """Who holds what now."""
        return Audit(dict(self._operations))

    def handle(self, message: Command | ev.Event, now: float) -> Actions:
        """Takes a command, or what became of one.

        Args:
            message: In the order of arrival.
            now: Monotonic seconds.

        Returns:
            What to do, in this order. Should carrying one out raise, `Faulted` says so, and the operation is told of
            no success that came with it; whatever gives something back is carried out all the same.
        """
        match message:
            case ev.Stepped():
                return self._stepped(message, now)
            case Prefill() | Reserve():
                return self._begin(message)
            case Free(session, key):
                return self._free(message, session, key, now)
            case Drain():
                self._draining = True
                return ()
            case ev.SessionEnded():
                operations = list(self._operations.values())
                return tuple(action for one in operations for action in self._take(one, message, now))
            case ev.KvComplete(ticket_id) | ev.KvFailed(ticket_id):
                return self._tell(self._tickets.get(ticket_id), message, now)
            case (
                Decode(key=key)
                | ev.EmbeddingsPulled(key)
                | ev.EmbeddingsFailed(key)
                | ev.ChunkAcknowledged(key)
                | ev.ChunkFailed(key)
                | ev.Fenced(key)
                | ev.Stalled(key)
                | ev.Faulted(key)
            ):
                return self._tell(key, message, now)
            case _:
                assert_never(message)

    def grant(self, pool: Pool) -> Actions:
        """Tickets in the order of the requests: a large prompt is not overtaken for ever by small ones.

        Sequences that wait for blocks to compute in come before all of them, answers that gave way above all. One
        whose embeddings are still fetched holds nobody up: an encode worker that hangs would stop all new requests.
        """
        actions: list[do.Action] = []
        while self._awaiting_blocks and not pool.waiting:
            operation = self._operations[next(iter(self._awaiting_blocks))]
            if not pool.reserve(operation.key):
                break
            actions += self._settle(operation, granted(operation))
        return tuple(actions)

    def expire(self, now: float) -> Actions:
        """Ends the operations whose deadline has passed."""
        due = self._deadlines.due(now)
        return tuple(action for key in due for action in self._tell(key, ev.Expired(key), now))

    def _begin(self, task: Prefill | Reserve) -> Actions:
        known = self._operations.get(task.key)
        if known and known.task.session == task.session:
            return ()  # a repetition
        if known:
            return _refuse(task, f"worker {self._worker} still has that operation for another router")
        if self._draining:
            return _refuse(task, f"worker {self._worker} is draining")
        operation, actions = begin(task)
        if task.ticket_id and isinstance(task, Reserve):
            self._tickets[task.ticket_id] = task.key
        if task.deadline is not None:
            self._deadlines.add(task.key, task.deadline)
        self._put(operation)
        return actions

    def _free(self, command: Free, session: SessionId, key: OperationKey, now: float) -> Actions:
        operation = self._operations.get(key)
        if operation and (operation.task.session == session or isinstance(operation.state, Freeing)):
            return self._take(operation, command, now)
        return (do.Tell(session, do.Freed(key)),)  # it holds nothing for whoever asks

    def _stepped(self, event: ev.Stepped, now: float) -> Actions:
        actions: list[do.Action] = []
        batches: dict[SessionId, list[ev.Sampled]] = {}
        for done in event.prompts:
            if operation := self._operations.get(done.key):
                actions += self._settle(operation, computed(operation, done.tokens, event.started, self._block_size))
        for token in event.tokens:
            for action in self._tell(token.key, token, now):
                match action:
                    case do.Tell(session, do.Tokens(tokens)):
                        batches.setdefault(session, []).extend(tokens)
                    case _:
                        actions.append(action)
        actions += (do.Tell(session, do.Tokens(tuple(batch))) for session, batch in batches.items())
        return tuple(actions)

    def _tell(self, key: OperationKey | None, event: OperationEvent, now: float) -> Actions:
        operation = self._operations.get(key) if key else None
        return self._take(operation, event, now) if operation else ()

    def _take(self, operation: Operation, event: OperationEvent, now: float) -> Actions:
        return self._settle(operation, step(operation, event, now))

    def _settle(self, before: Operation, after: Step) -> Actions:
        operation, actions = after
        if operation is None:
            self._drop(before)
        elif operation is not before:
            self._put(operation)
        return actions

    def _put(self, operation: Operation) -> None:
        key = operation.key
        self._operations[key] = operation
        if not isinstance(operation.task, Reserve):
            return
        if isinstance(operation.state, AwaitingBlocks):
            self._awaiting_blocks[key] = None
        else:
            self._awaiting_blocks.pop(key, None)
        if isinstance(holding(operation.state), Incoming):
            self._leased.add(key)
        else:
            self._leased.discard(key)

    def _drop(self, operation: Operation) -> None:
        key = operation.key
        del self._operations[key]
        self._awaiting_blocks.pop(key, None)
        self._leased.discard(key)
        self._tickets.pop(operation.task.ticket_id, None)
        self._deadlines.drop(key)


def _refuse(task: Prefill | Reserve, why: str) -> Actions:
    return (do.Tell(task.session, do.Failed(task.key, Unavailable(why))),)
