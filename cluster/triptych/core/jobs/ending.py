"""How operations end: told to the router once, given back once."""

from triptych.core.errors import TriptychError
from triptych.core.jobs import actions as do
from triptych.core.jobs.commands import SessionId
from triptych.core.jobs.states import (
    Blocks,
    Computing,
    Decoding,
    Failed,
    Freeing,
    Incoming,
    Nothing,
    Operation,
    Outgoing,
    Pulling,
    Recalling,
    holding,
)

Step = tuple[Operation | None, tuple[do.Action, ...]]
"""The operation after an event, None when it is over, and what to do."""


def fail(operation: Operation, error: TriptychError) -> Step:
    """Tells the router, unless it has been told; what is held stays held until Free."""
    if isinstance(operation.state, Failed | Freeing):
        return operation, ()
    told = do.Tell(operation.task.session, do.Failed(operation.key, error))
    return Operation(operation.task, Failed(holding(operation.state))), (*_halt(operation), told)


def free(operation: Operation, askers: tuple[SessionId, ...]) -> Step:
    """Stops an operation, and gives back what it holds as soon as no transfer can touch it."""
    if isinstance(operation.state, Freeing):
        return Operation(operation.task, Freeing(operation.state.askers + askers)), ()
    ticket_id = operation.task.ticket_id
    match holding(operation.state):
        case Nothing():
            return _over(operation, askers, _halt(operation))
        case Blocks():
            return _over(operation, askers, (*_halt(operation), do.Release(operation.key)))
        case Outgoing():
            fence: do.Action = do.StopSending(operation.key, ticket_id)
        case Incoming():
            fence = do.StopReceiving(operation.key, ticket_id)
    return Operation(operation.task, Freeing(askers)), (*_halt(operation), fence)


def leave(operation: Operation, session: SessionId) -> Step:
    """A session has ended: its own operations are freed, and nothing more is told to it."""
    match operation.state:
        case Freeing(askers) if session in askers:
            remaining = tuple(asker for asker in askers if asker != session)
            return Operation(operation.task, Freeing(remaining)), ()
        case Freeing():
            return operation, ()
        case _:
            return free(operation, ()) if operation.task.session == session else (operation, ())


def fenced(operation: Operation) -> Step:
    """No transfer touches the blocks any more."""
    if not isinstance(operation.state, Freeing):
        return operation, ()
    return _over(operation, operation.state.askers, (do.Release(operation.key),))


def _over(operation: Operation, askers: tuple[SessionId, ...], actions: tuple[do.Action, ...]) -> Step:
    told = (do.Tell(asker, do.Freed(operation.key)) for asker in askers)
    return None, (*actions, do.Forget(operation.key), *told)


def _halt(operation: Operation) -> tuple[do.Action, ...]:
    """Nothing is computed or fetched for it any more."""
    match operation.state:
        case Computing() | Decoding():
            return (do.Park(operation.key),)
        case Pulling():
            return (do.DropPull(operation.key),)
        case Recalling():
            return do.DropPull(operation.key), do.Park(operation.key)
        case _:
            return ()
