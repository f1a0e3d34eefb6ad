"""How an attempt at a request ends: with the request, or for another one to begin."""

from dataclasses import replace

from triptych.core.errors import ResourceExhausted, TriptychError
from triptych.core.generation import FinishReason, OperationKey
from triptych.core.request import actions as do
from triptych.core.request.record import MAX_ATTEMPTS, Gone, Holding, Past, Record
from triptych.core.request.states import Failed, Finished, Queued

NOBODY: frozenset[str] = frozenset()
PROVEN_TOKENS = 64  # of one attempt: a request that kills its workers after a few would else do so for ever

Step = tuple[Record, tuple[do.Action, ...]]
"""The next record, and what to do."""


def end(record: Record, outcome: FinishReason | TriptychError) -> Step:
    """The request ends; whoever holds something for it is freed. A client that may come back finds its answer."""
    state = Finished(outcome) if isinstance(outcome, FinishReason) else Failed(outcome)
    client = record.client if record.terms.linger > 0 else Gone()
    record, frees = free_all(replace(record, state=state, client=client))
    return record, (do.End(outcome), *frees)


def again(record: Record, error: TriptychError, now: float, blamed: frozenset[str] = NOBODY) -> Step:
    """The attempt ends and the next one begins, from the prompt and the answer so far.

    The next epoch makes everything that the workers still say of this one void. Tokens that the client has are not
    computed again: they become part of what is prefilled, and the random stream goes on at their end.

    Args:
        record: The request.
        error: Why; also the request's end when its budget is used up.
        now: Seconds of the router's clock.
        blamed: Workers that may be to blame; none for an attempt that ends for no fault of its own.
    """
    past = record.past
    if record.emitted >= past.emitted + PROVEN_TOKENS:  # it got somewhere: what failed before no longer counts
        past = replace(past, failures=0, avoid=NOBODY)
    failures = past.failures + bool(blamed)
    epoch = record.key.epoch + 1
    if failures > record.terms.max_failures or epoch % MAX_ATTEMPTS == 0:
        return end(record, error)
    not_before = now + (error.retry_after or 0.0) if isinstance(error, ResourceExhausted) else 0.0
    record, frees = free_all(record)
    record = replace(
        record,
        key=OperationKey(record.key.request_id, epoch),
        state=Queued(now, not_before),
        past=Past(failures, past.avoid | blamed, error, past.replays + 1, record.emitted),
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
