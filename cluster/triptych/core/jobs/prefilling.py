"""Prompts: embeddings in, steps, blocks out, the first token."""

from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason
from triptych.core.jobs import actions as do
from triptych.core.jobs.ending import Step, fail
from triptych.core.jobs.events import Sampled
from triptych.core.jobs.states import (
    Computing,
    Decoding,
    Delivered,
    Failed,
    Finished,
    Operation,
    Outgoing,
    Pulling,
    Recalling,
    Sending,
    State,
    outgoing,
)


def pulled(operation: Operation, seconds: float) -> Step:
    """The embeddings are here: for a prompt that waits, or for one that gave way after its transfer."""
    match operation.state:
        case Pulling():
            return Operation(operation.task, Computing(seconds)), (do.Add(operation.key),)
        case Recalling():
            return Operation(operation.task, Decoding()), (do.Supply(operation.key),)
        case _:
            return operation, ()


def unpulled(operation: Operation, error: TriptychError) -> Step:
    """The embeddings cannot be had."""
    return fail(operation, error) if isinstance(operation.state, Pulling | Recalling) else (operation, ())


def computed(operation: Operation, tokens: int, started: float, block_size: int) -> Step:
    """The KV of the leading tokens is there: full blocks are pushed, the last one of the prompt as it is.

    Args:
        operation: Whose prompt.
        tokens: How many.
        started: When the step began, in monotonic seconds.
        block_size: Tokens per block.
    """
    task, state = operation.task, operation.state
    if not isinstance(state, Computing):
        return operation, ()
    started = started if state.started is None else state.started
    last = tokens >= task.length
    until = -(-task.length // block_size) if last else tokens // block_size
    if not task.ticket_id or until <= state.sent:
        return Operation(task, Computing(state.input_seconds, started, state.sent, state.chunks)), ()
    push = do.PushBlocks(task.key, task.ticket_id, state.sent, until, last)
    return Operation(task, Computing(state.input_seconds, started, until, state.chunks + 1)), (push,)


def sampled(operation: Operation, token: Sampled, now: float) -> Step:
    """A token of the answer; the first one answers Prefill."""
    task = operation.task
    match operation.state:
        case Decoding() if token.finish_reason is None:
            return operation, (do.Tell(task.session, do.Tokens((token,))),)
        case Decoding():
            return Operation(task, Finished()), (do.Tell(task.session, do.Tokens((token,))),)
        case Computing() as state:
            done = do.PrefillDone(token, _times(task.received, state, now))
            following = _after_first(operation, state, token.finish_reason)
            return Operation(task, following), (do.Tell(task.session, done),)
        case _:
            return operation, ()


def delivered(operation: Operation) -> Operation:
    """One chunk less is under way."""
    match operation.state:
        case Computing(input_seconds, started, sent, chunks) if chunks:
            state: State = Computing(input_seconds, started, sent, chunks - 1)
        case Sending(chunks):
            state = Sending(chunks - 1) if chunks > 1 else Delivered()
        case Failed(Outgoing(chunks)):
            state = Failed(outgoing(chunks - 1))
        case _:
            return operation
    return Operation(operation.task, state)


def undelivered(operation: Operation, error: TriptychError) -> Step:
    """A chunk has failed; the decode worker will not have the prompt's KV."""
    after = delivered(operation)
    return (after, ()) if after is operation else fail(after, error)


def _after_first(operation: Operation, state: Computing, finish_reason: FinishReason | None) -> State:
    if operation.task.ticket_id:
        return Sending(state.chunks) if state.chunks else Delivered()
    return Decoding() if finish_reason is None else Finished()


def _times(received: float, state: Computing, now: float) -> do.Times:
    started = now if state.started is None else state.started
    return do.Times(started - received - state.input_seconds, state.input_seconds, now - started)
