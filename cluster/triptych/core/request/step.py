"""The life of a request: `step(record, event, now) -> (record, actions)`, for every event in every state.

    Queued ──▶ Encoding ──▶ Reserving ──▶ Prefilling ──▶ Transferring ──▶ Decoding ──▶ Finished
      ▲ │ no images  ╰──── colocated: no reservation ──▲   ╰── colocated, or KV first ──▲   │
      │ ╰──────────────────────────────────────────────╯                                    ╰─▶ Failed, at any moment:
      ╰── a worker was lost, failed or drained: a new attempt                                 budget, cancel, deadline

The router owns the record; workers only ever answer. Each attempt has an epoch of its own, and what a worker says of
another epoch changes nothing but the books of who still holds something. Every worker that may hold something is a
*holder* from the moment a command is sent to it, and is sent exactly one Free per attempt. A record lives on until
each holder has acknowledged.
"""

from dataclasses import replace
from typing import assert_never

from triptych.core.errors import Cancelled, DeadlineExceeded, TriptychError, Unavailable
from triptych.core.request import events as ev
from triptych.core.request import progress
from triptych.core.request.attempt import Step, again, end, free
from triptych.core.request.blame import suspects
from triptych.core.request.record import Away, Gone, Holding, Present, Record
from triptych.core.request.states import (
    Decoding,
    Encoding,
    Ended,
    Failed,
    Finished,
    Prefilling,
    Queued,
    Reserving,
    Transferring,
)


def step(record: Record, event: ev.Event, now: float) -> Step:
    """The next record and what to do; an event that no longer matters changes nothing."""
    match event:
        case ev.TokensArrived() | ev.ImagesEncoded() | ev.BlocksReserved() | ev.KvArrived() | ev.StageFailed():
            return _of_worker(record, event, now) if event.epoch == record.key.epoch else (record, ())
        case ev.HolderFreed(worker_id, epoch):
            return replace(record, freeing=record.freeing - {Holding(worker_id, epoch)}), ()
        case ev.WorkerLost(worker_id):
            return _lose(record, worker_id, now)
        case ev.ClientLeft() | ev.ClientReturned():
            return _of_client(record, event, now)
        case ev.TimePassed():
            return _age(record, now)
        case ev.Dispatched(plan):
            return progress.dispatch(record, plan)
        case ev.WorkerDrained(worker_id):
            return _move(record, worker_id, now)
        case ev.Completed(outcome) | ev.Abandoned(outcome):
            return (record, ()) if isinstance(record.state, Ended) else end(record, outcome)
        case _:
            assert_never(event)


def needed(record: Record) -> tuple[str, ...]:
    """Workers without which the attempt cannot go on, those included that have not been sent anything yet."""
    match record.state:
        case Encoding(plan) | Reserving(plan) | Prefilling(plan):
            return (*plan.encode, plan.prefill, plan.decode)
        case Transferring(plan):
            return (plan.prefill, plan.decode)
        case Decoding(plan):
            return (plan.decode,)
        case Queued() | Finished() | Failed():
            return ()
        case unknown:
            assert_never(unknown)


def _of_worker(
    record: Record,
    event: ev.TokensArrived | ev.ImagesEncoded | ev.BlocksReserved | ev.KvArrived | ev.StageFailed,
    now: float,
) -> Step:
    """What a worker says of the current attempt."""
    match event:
        case ev.TokensArrived():
            return progress.advance(record, event, now)
        case ev.ImagesEncoded():
            return progress.encoded(record, event)
        case ev.BlocksReserved():
            return progress.reserved(record, event)
        case ev.KvArrived():
            return progress.kv_arrived(record, event)
        case ev.StageFailed(worker_id, epoch, error):
            if isinstance(record.state, Ended) or Holding(worker_id, epoch) not in record.holders:
                return record, ()
            if error.transient or error.retry_after is not None:
                return again(record, error, now, suspects(record, worker_id, error))
            return end(record, error)
        case _:
            assert_never(event)


def _lose(record: Record, worker_id: str, now: float) -> Step:
    """What a lost worker held is gone with it: nobody is left to free it."""
    lost = worker_id in needed(record)
    record = replace(
        record,
        holders=frozenset(h for h in record.holders if h.worker_id != worker_id),
        freeing=frozenset(h for h in record.freeing if h.worker_id != worker_id),
    )
    if not lost:
        return record, ()
    error = Unavailable(f"worker {worker_id} was lost; try again", retry_after=1.0)
    return again(record, error, now, frozenset({worker_id}))


def _move(record: Record, worker_id: str, now: float) -> Step:
    """What a drained worker keeps for an answer that goes on without it, embeddings, it keeps no longer."""
    if worker_id not in needed(record):
        return free(record, worker_id)
    return again(record, Unavailable(f"worker {worker_id} was drained; try again", retry_after=1.0), now)


def _of_client(record: Record, event: ev.ClientLeft | ev.ClientReturned, now: float) -> Step:
    if isinstance(record.client, Gone):
        return record, ()
    match event:
        case ev.ClientReturned(terms):
            return replace(record, client=Present(), terms=terms), ()
        case ev.ClientLeft(error):
            return _leave(record, error, now) if isinstance(record.client, Present) else (record, ())
        case _:
            assert_never(event)


def _leave(record: Record, error: TriptychError | None, now: float) -> Step:
    """Who lost the connection may come back, as long as was agreed; who has the end, or no time left, does not."""
    if error is not None and not isinstance(error, DeadlineExceeded) and record.terms.linger > 0:
        return replace(record, client=Away(now)), ()
    record = replace(record, client=Gone())
    if isinstance(record.state, Ended):
        return record, ()
    return end(record, error or Cancelled("the client went away"))


def _age(record: Record, now: float) -> Step:
    terms, state = record.terms, record.state
    if isinstance(record.client, Away) and now >= record.client.since + terms.linger:
        record = replace(record, client=Gone())
        if not isinstance(state, Ended):
            return end(record, Cancelled("the client went away"))
    if isinstance(state, Ended):
        return record, ()
    if terms.deadline is not None and now >= terms.deadline:
        return end(record, DeadlineExceeded("the deadline passed"))
    if isinstance(state, Queued) and now >= state.since + terms.patience:
        waited = f"no worker was ready within {terms.patience:g} seconds"
        return end(record, record.past.error or Unavailable(waited, retry_after=1.0))
    return record, ()
