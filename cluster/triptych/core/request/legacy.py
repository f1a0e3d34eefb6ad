"""The life of a request: `step(record, event) -> (record, actions)`.

    Queued ──▶ Encoding ──▶ Reserving ──▶ Prefilling ──▶ Decoding ──▶ Ended
       │ no images  ╰──────▶ (colocated: no reservation) ──▲   │
       ╰────────────────────────────────────────────────────   ╰─▶ Ended at any moment: failure, cancel, deadline

The router owns the record; workers only ever answer. Every worker that may hold something is a *holder* from the
moment a command is sent to it, and is sent exactly one Free. An ended record lives on until each holder has
acknowledged.
"""

from dataclasses import dataclass, replace
from typing import assert_never

from triptych.core import events as ev
from triptych.core.errors import TriptychError, Unavailable
from triptych.core.generation import FinishReason, OperationKey
from triptych.core.plan import Plan


@dataclass(frozen=True, slots=True)
class Queued:
    """Accepted; has no workers yet."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """Waits for the embeddings of `missing` images."""

    plan: Plan
    missing: frozenset[int]


@dataclass(frozen=True, slots=True)
class Reserving:
    """Waits for blocks on the decode worker."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Prefilling:
    """Waits for the first token."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Decoding:
    """The answer is on its way.

    Attributes:
        awaits_kv: The prefill worker still sends KV, so it cannot be freed yet.
    """

    plan: Plan
    awaits_kv: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The client has its answer or its error."""

    outcome: FinishReason | TriptychError


State = Queued | Encoding | Reserving | Prefilling | Decoding | Ended


@dataclass(frozen=True, slots=True)
class Record:
    """One request as its owner sees it.

    Attributes:
        holders: Workers that may hold something and have not been sent Free.
        freeing: Workers that have been sent Free and have not acknowledged it.
        early_kv: The decode worker had all KV before the first token arrived.
    """

    key: OperationKey
    state: State = Queued()
    holders: frozenset[str] = frozenset()
    freeing: frozenset[str] = frozenset()
    early_kv: bool = False

    @property
    def closed(self) -> bool:
        """Whether nobody, client or worker, has anything left to hear."""
        return isinstance(self.state, Ended) and not self.holders and not self.freeing


Step = tuple[Record, tuple[ev.Action, ...]]


def step(record: Record, event: ev.Event) -> Step:
    """The next record and what to do; an event that no longer matters changes nothing."""
    match event:
        case ev.HolderFreed(worker_id):
            return replace(record, freeing=record.freeing - {worker_id}), ()
        case ev.WorkerLost(worker_id):
            return _lose(record, worker_id)
        case _ if isinstance(record.state, Ended):
            return record, ()
        case ev.Dispatched(plan):
            return _dispatch(record, plan)
        case ev.ImagesEncoded(indices):
            return _encoded(record, indices)
        case ev.BlocksReserved():
            return _reserved(record)
        case ev.TokensArrived(tokens, finish_reason):
            return _advance(record, ev.Deliver(tokens), finish_reason)
        case ev.KvArrived():
            return _kv_arrived(record)
        case ev.StopTextFound():
            return _end(record, FinishReason.STOP)
        case ev.StageFailed(worker_id, error):
            return _end(record, error) if worker_id in record.holders else (record, ())
        case ev.Abandoned(error):
            return _end(record, error)
        case _:
            assert_never(event)


def _dispatch(record: Record, plan: Plan) -> Step:
    if not isinstance(record.state, Queued):
        return record, ()
    if not plan.encode:
        return _after_encode(record, plan)
    shards = {worker: tuple(i for i, w in enumerate(plan.encode) if w == worker) for worker in plan.encode}
    record = replace(record, state=Encoding(plan, frozenset(range(len(plan.encode)))))
    return _hold(record, *shards), tuple(ev.SendEncode(worker, indices) for worker, indices in shards.items())


def _encoded(record: Record, indices: frozenset[int]) -> Step:
    if not isinstance(record.state, Encoding):
        return record, ()
    missing = record.state.missing - indices
    if missing:
        return replace(record, state=replace(record.state, missing=missing)), ()
    return _after_encode(record, record.state.plan)


def _after_encode(record: Record, plan: Plan) -> Step:
    if plan.colocated:
        return _hold(replace(record, state=Prefilling(plan)), plan.prefill), (ev.SendPrefill(plan.prefill, False),)
    return _hold(replace(record, state=Reserving(plan)), plan.decode), (ev.SendReserve(plan.decode),)


def _reserved(record: Record) -> Step:
    if not isinstance(record.state, Reserving):
        return record, ()
    plan = record.state.plan
    return _hold(replace(record, state=Prefilling(plan)), plan.prefill), (ev.SendPrefill(plan.prefill, True),)


def _advance(record: Record, deliver: ev.Deliver, finish_reason: FinishReason | None) -> Step:
    match record.state:
        case Prefilling(plan):
            awaits_kv = not plan.colocated and not record.early_kv
            record = replace(record, state=Decoding(plan, awaits_kv))
            actions: tuple[ev.Action, ...] = (deliver,)
            if not plan.colocated and finish_reason is None:
                actions += (ev.SendDecode(plan.decode),)
                if not awaits_kv:
                    record, free = _free(record, plan.prefill)
                    actions += free
        case Decoding():
            actions = (deliver,)
        case _:
            return record, ()
    if finish_reason is None:
        return record, actions
    record, ending = _end(record, finish_reason)
    return record, actions + ending


def _kv_arrived(record: Record) -> Step:
    match record.state:
        case Prefilling():
            return replace(record, early_kv=True), ()
        case Decoding(plan, True):
            return _free(replace(record, state=Decoding(plan, False)), plan.prefill)
        case _:
            return record, ()


def _lose(record: Record, worker_id: str) -> Step:
    record = replace(record, holders=record.holders - {worker_id}, freeing=record.freeing - {worker_id})
    if worker_id not in _needed(record.state):
        return record, ()
    return _end(record, Unavailable(f"worker {worker_id} was lost; try again", retry_after=1.0))


def _needed(state: State) -> tuple[str, ...]:
    """Workers without which the request cannot go on, those included that have not been sent anything yet."""
    match state:
        case Encoding(plan) | Reserving(plan) | Prefilling(plan):
            return (*plan.encode, plan.prefill, plan.decode)
        case Decoding(plan, awaits_kv):
            return (plan.prefill, plan.decode) if awaits_kv else (plan.decode,)
        case Queued() | Ended():
            return ()
        case _:
            assert_never(state)


def _end(record: Record, outcome: FinishReason | TriptychError) -> Step:
    holders = sorted(record.holders)
    record = replace(record, state=Ended(outcome), holders=frozenset(), freeing=record.freeing | record.holders)
    return record, (ev.End(outcome), *(ev.SendFree(worker) for worker in holders))


def _hold(record: Record, *workers: str) -> Record:
    return replace(record, holders=record.holders | set(workers))


def _free(record: Record, worker_id: str) -> Step:
    if worker_id not in record.holders:
        return record, ()
    record = replace(record, holders=record.holders - {worker_id}, freeing=record.freeing | {worker_id})
    return record, (ev.SendFree(worker_id),)
