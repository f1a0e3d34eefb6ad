"""How an attempt at a request ends: with the request, or for another one to begin."""

from dataclasses import replace

from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason, OperationKey
from triptych.core.request import actions as do
from triptych.core.request.record import MAX_ATTEMPTS, Gone, Holding, Record
from triptych.core.request.states import Failed, Finished, Queued

Step = tuple[Record, tuple[do.Action, ...]]


def end(record: Record, outcome: FinishReason | TriptychError) -> Step:
    """The request ends; whoever holds something for it is freed. A client that may come back finds its answer."""
    state = Finished(outcome) if isinstance(outcome, FinishReason) else Failed(outcome)
    client = record.client if record.terms.linger > 0 else Gone()
    record, frees = free_all(replace(record, state=state, client=client))
    return record, (do.End(outcome), *frees)


def again(record: Record, error: TriptychError, now: float, failed_at: str = "") -> Step:
    """The attempt ends and the next one begins, from the prompt and the answer so far.

    The next epoch makes everything that the workers still say of this one void. Tokens that the client has are not
    computed again: they become part of what is prefilled, and the random stream goes on at their end.

    Args:
        record: The request.
        error: Why; also the request's end when its budget is used up.
        now: Seconds of the router's clock.
        failed_at: The worker that is to blame; empty for an attempt that ends for no fault of its own.
    """
    past = record.past
    failures = past.failures + bool(failed_at)
    epoch = record.key.epoch + 1
    if failures > record.terms.max_failures or epoch % MAX_ATTEMPTS == 0:
        return end(record, error)
    avoid = past.avoid | {failed_at} if failed_at else past.avoid
    record, frees = free_all(record)
    record = replace(
        record,
        key=OperationKey(record.key.request_id, epoch),
        state=Queued(now),
        past=replace(past, failures=failures, avoid=avoid, error=error, replays=past.replays + 1),
    )
    return record, (*frees, do.Place())


def free(record: Record, worker_id: str) -> Step:
    """The one Free of a holder of the current attempt."""
    holding = Holding(worker_id, record.key.epoch)
    if holding not in record.holders:
        return record, ()
    record = replace(record, holders=record.holders - {holding}, freeing=record.freeing | {holding})
    return record, (do.SendFree(*holding),)


def free_all(record: Record) -> Step:
    """The one Free of every holder."""
    holders = sorted(record.holders)
    record = replace(record, holders=frozenset(), freeing=record.freeing | record.holders)
    return record, tuple(do.SendFree(*holding) for holding in holders)
