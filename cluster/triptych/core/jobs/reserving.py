"""Reservations: blocks, the KV that somebody sends into them, and the tokens to decode behind it."""

from triptych.core.errors import Internal, TriptychError
from triptych.core.jobs import actions as do
from triptych.core.jobs.ending import Step, fail
from triptych.core.jobs.states import (
    Arrived,
    AwaitingBlocks,
    Blocks,
    Decoding,
    Failed,
    Incoming,
    Nothing,
    Operation,
    Receiving,
)


def granted(operation: Operation) -> Step:
    """The scheduler has reserved the blocks."""
    if not isinstance(operation.state, AwaitingBlocks):
        return operation, ()
    key, ticket_id = operation.key, operation.task.ticket_id
    told = do.Tell(operation.task.session, do.Reserved(key, ticket_id))
    return Operation(operation.task, Receiving()), (do.OpenLease(key, ticket_id), told)


def complete(operation: Operation, size: int, seconds: float) -> Step:
    """Every block is here and verified."""
    close = do.CloseLease(operation.task.ticket_id, operation.key)
    ready = do.Tell(operation.task.session, do.KvReady(operation.key, size, seconds))
    match operation.state:
        case Receiving(()):
            return Operation(operation.task, Arrived()), (close, ready)
        case Receiving(emitted):
            start = do.Start(operation.key, emitted)
            return Operation(operation.task, Decoding()), (close, ready, start)
        case Failed(Incoming()):
            return Operation(operation.task, Failed(Blocks())), (close,)
        case _:
            return operation, ()


def incomplete(operation: Operation, error: TriptychError) -> Step:
    """The lease has ended before; nothing writes the blocks, so they come back now, whenever Free comes."""
    if not isinstance(operation.state, Receiving) and operation.state != Failed(Incoming()):
        return operation, ()
    _, told = fail(operation, error)  # unless it has been told
    return Operation(operation.task, Failed(Nothing())), (*told, do.Release(operation.key))


def decode(operation: Operation, emitted: tuple[int, ...]) -> Step:
    """The router says what the answer has so far; decoding begins once the KV is here too."""
    match operation.state:
        case AwaitingBlocks():
            return fail(operation, Internal("Decode came before there were blocks"))
        case Receiving(()) | Arrived() if len(emitted) <= operation.task.answered:
            return fail(
                operation,
                Internal(
                    f"Decode must bring more than the {operation.task.answered} tokens that the KV is of, "
                    f"got {len(emitted)}"
                ),
            )
        case Receiving(()):
            return Operation(operation.task, Receiving(emitted)), ()
        case Arrived():
            return Operation(operation.task, Decoding()), (do.Start(operation.key, emitted),)
        case _:
            return operation, ()
