"""What one request weighs on each of its workers, derived from its state so that the books cannot drift."""

from typing import assert_never

from triptych.core.fleet.load import NOTHING, Load
from triptych.core.plan import Demand, Plan
from triptych.core.request.record import Record
from triptych.core.request.states import (
    Decoding,
    Encoding,
    Failed,
    Finished,
    Prefilling,
    Queued,
    Reserving,
    Transferring,
)

NONE: frozenset[int] = frozenset()
BUSY = Load(requests=1)


def load_of(record: Record, demand: Demand) -> dict[str, Load]:
    """The load by worker; counted from the moment the request is dispatched until the worker has given all back.

    A worker that does not acknowledge Free is still at it: it must not look idle.
    """
    loads = _attempt(record, demand)
    for holding in record.freeing:
        loads[holding.worker_id] = loads.get(holding.worker_id, NOTHING) + BUSY
    return loads


def _attempt(record: Record, demand: Demand) -> dict[str, Load]:
    match record.state:
        case Queued() | Finished() | Failed():
            return {}
        case Encoding(plan, missing):
            return _loads(plan, demand, record.emitted, missing)
        case Reserving(plan) | Prefilling(plan):
            return _loads(plan, demand, record.emitted, NONE)
        case Transferring(plan):
            return {plan.prefill: BUSY, plan.decode: BUSY}
        case Decoding(plan):  # an encode worker keeps embeddings for it, which is no work
            return {plan.decode: BUSY}
        case unknown:
            assert_never(unknown)


def _loads(plan: Plan, demand: Demand, emitted: int, missing: frozenset[int]) -> dict[str, Load]:
    loads = {worker: Load(requests=1) for worker in (*plan.encode, plan.prefill, plan.decode)}
    loads[plan.prefill] += Load(tokens=demand.prompt_tokens + emitted)
    for index in missing:
        loads[plan.encode[index]] += Load(patches=demand.patches[index])
    return loads
