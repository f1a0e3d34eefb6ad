"""How an attempt goes forward: its workers do what they were asked, one after the other."""

from dataclasses import replace

from triptych.core.errors import Internal
from triptych.core.plan import Plan
from triptych.core.request import actions as do
from triptych.core.request import events as ev
from triptych.core.request.attempt import Step, again, end, free
from triptych.core.request.record import Record, grown, hold
from triptych.core.request.states import Decoding, Encoding, Prefilling, Queued, Reserving, Transferring


def dispatch(record: Record, plan: Plan) -> Step:
    """The attempt gets its workers; those of the first stage are asked."""
    if not isinstance(record.state, Queued):
        return record, ()
    if not plan.encode:
        return _after_encode(record, plan)
    shards = {worker: tuple(i for i, w in enumerate(plan.encode) if w == worker) for worker in plan.encode}
    record = replace(record, state=Encoding(plan, frozenset(range(len(plan.encode)))))
    epoch = record.key.epoch
    return hold(record, *shards), tuple(do.SendEncode(worker, epoch, indices) for worker, indices in shards.items())


def encoded(record: Record, event: ev.ImagesEncoded) -> Step:
    """Embeddings are there; the last ones let the attempt go on."""
    if not isinstance(record.state, Encoding):
        return record, ()
    plan, missing = record.state.plan, record.state.missing
    left = missing - {i for i in event.indices & missing if plan.encode[i] == event.worker_id}
    if left:
        return replace(record, state=Encoding(plan, left)), ()
    return _after_encode(record, plan)


def reserved(record: Record, event: ev.BlocksReserved) -> Step:
    """The decode worker has blocks: the prompt can be computed into them."""
    match record.state:
        case Reserving(plan) if event.worker_id == plan.decode:
            prefill = do.SendPrefill(plan.prefill, record.key.epoch, record.emitted, with_ticket=True)
            return hold(replace(record, state=Prefilling(plan)), plan.prefill), (prefill,)
        case _:
            return record, ()


def kv_arrived(record: Record, event: ev.KvArrived) -> Step:
    """The decode worker has all KV: the prefill worker is done, once its token is here too."""
    match record.state:
        case Prefilling(plan) if event.worker_id == plan.decode:
            return replace(record, state=Prefilling(plan, kv_arrived=True)), ()
        case Transferring(plan) if event.worker_id == plan.decode:
            return free(replace(record, state=Decoding(plan)), plan.prefill)
        case _:
            return record, ()


def advance(record: Record, event: ev.TokensArrived, now: float) -> Step:
    """The answer grows. Tokens that are there already are dropped; a missing one must not be papered over."""
    state = record.state
    match state:
        case Prefilling(plan) if event.worker_id == plan.prefill:
            pass
        case Transferring(plan) | Decoding(plan) if event.worker_id == plan.decode:
            pass
        case Reserving(plan) if event.worker_id == plan.decode and event.finish_reason is not None:
            pass  # it has no room for another token
        case _:
            return record, ()
    if event.first > record.emitted:
        error = Internal(f"worker {event.worker_id} left out token {record.emitted} of an answer")
        return again(record, error, now, frozenset({event.worker_id}))
    tokens = event.tokens[record.emitted - event.first :]
    if not tokens and event.finish_reason is None:
        return record, ()
    record = grown(record, len(tokens))
    actions: tuple[do.Action, ...] = (do.Deliver(tokens),) if tokens else ()
    if event.finish_reason is not None:
        record, following = end(record, event.finish_reason)
    elif isinstance(state, Prefilling):
        record, following = _prefilled(record, state)
    else:
        return record, actions
    return record, actions + following


def _after_encode(record: Record, plan: Plan) -> Step:
    epoch, emitted = record.key.epoch, record.emitted
    if plan.colocated:
        record = hold(replace(record, state=Prefilling(plan)), plan.prefill)
        return record, (do.SendPrefill(plan.prefill, epoch, emitted, with_ticket=False),)
    record = hold(replace(record, state=Reserving(plan)), plan.decode)
    return record, (do.SendReserve(plan.decode, epoch, emitted),)


def _prefilled(record: Record, state: Prefilling) -> Step:
    """The first token of the attempt is here: whoever has the KV goes on."""
    plan = state.plan
    if plan.colocated:
        return replace(record, state=Decoding(plan)), ()
    decode = do.SendDecode(plan.decode, record.key.epoch, record.emitted)
    if not state.kv_arrived:
        return replace(record, state=Transferring(plan)), (decode,)
    record, freed = free(replace(record, state=Decoding(plan)), plan.prefill)
    return record, (decode, *freed)
