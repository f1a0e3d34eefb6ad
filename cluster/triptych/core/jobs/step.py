"""One operation's next state: `step(operation, event, now) -> (operation, actions)`.

Pure and total. An event that an operation does not wait for changes nothing: it is late (the end of a chunk after
Free, a token of a step that was under way), repeated, or nonsense.
"""

from typing import assert_never

from triptych.core.errors import DeadlineExceeded
from triptych.core.jobs import actions as do
from triptych.core.jobs import events as ev
from triptych.core.jobs.commands import Decode, Free, Prefill, Reserve
from triptych.core.jobs.ending import Step, fail, fenced, free, leave
from triptych.core.jobs.prefilling import delivered, pulled, sampled, undelivered, unpulled
from triptych.core.jobs.reserving import complete, decode, incomplete
from triptych.core.jobs.states import (
    AwaitingBlocks,
    Computing,
    Decoding,
    Delivered,
    Finished,
    Operation,
    Pulling,
    Recalling,
)

Transferred = (
    ev.EmbeddingsPulled
    | ev.EmbeddingsFailed
    | ev.ChunkAcknowledged
    | ev.ChunkFailed
    | ev.KvComplete
    | ev.KvFailed
    | ev.Fenced
)
OperationEvent = Decode | Free | Transferred | ev.SessionEnded | ev.Sampled | ev.Stalled | ev.Faulted | ev.Expired
"""What concerns one operation; besides there are `prefilling.computed` and `reserving.granted`."""


def begin(task: Prefill | Reserve) -> tuple[Operation, tuple[do.Action, ...]]:
    """A new operation: a prompt goes to the scheduler as soon as its embeddings are here, a reservation waits."""
    match task:
        case Reserve():
            return Operation(task, AwaitingBlocks()), ()
        case Prefill(embeddings=0):
            return Operation(task, Computing()), (do.Add(task.key),)
        case Prefill():
            return Operation(task, Pulling()), (do.PullEmbeddings(task.key),)
        case _:
            assert_never(task)


def step(operation: Operation, event: OperationEvent, now: float) -> Step:
    """The operation after an event of its own, None when it is over, and what to do."""
    match event:
        case ev.Sampled():
            return sampled(operation, event, now)
        case Decode(_, _, emitted):
            return decode(operation, emitted)
        case ev.Stalled():
            return _stalled(operation)
        case ev.Expired():
            return _expired(operation)
        case ev.Faulted(_, error):
            return fail(operation, error)
        case Free(session):
            return free(operation, (session,))
        case ev.SessionEnded(session):
            return leave(operation, session)
        case _:
            return _transferred(operation, event)


def _transferred(operation: Operation, event: Transferred) -> Step:
    match event:
        case ev.ChunkAcknowledged():
            return delivered(operation), ()
        case ev.ChunkFailed(_, error):
            return undelivered(operation, error)
        case ev.EmbeddingsPulled(_, seconds):
            return pulled(operation, seconds)
        case ev.EmbeddingsFailed(_, error):
            return unpulled(operation, error)
        case ev.KvComplete(_, size, seconds):
            return complete(operation, size, seconds)
        case ev.KvFailed(_, error):
            return incomplete(operation, error)
        case ev.Fenced():
            return fenced(operation)
        case _:
            assert_never(event)


def _stalled(operation: Operation) -> Step:
    if not isinstance(operation.state, Decoding):
        return operation, ()
    return Operation(operation.task, Recalling()), (do.PullEmbeddings(operation.key),)


def _expired(operation: Operation) -> Step:
    """Who has its answer is not told that it came too late."""
    if isinstance(operation.state, Delivered | Finished):
        return operation, ()
    return fail(operation, DeadlineExceeded("the deadline passed"))
