"""What one request weighs on each of its workers, derived from its state so that the books cannot drift."""

from typing import assert_never

from triptych.core.fleet.load import Load
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


def load_of(record: Record, demand: Demand) -> dict[str, Load]:
    """The load by worker; counted from the moment the request is dispatched, on every path."""
    match record.state:
        case Queued() | Finished() | Failed():
            return {}
        case Encoding(plan, missing):
            return _loads(plan, demand, record.emitted, missing)
        case Reserving(plan) | Prefilling(plan):
            return _loads(plan, demand, record.emitted, NONE)
        case Transferring() | Decoding():
            epoch = record.key.epoch
            return {holding.worker_id: Load(requests=1) for holding in record.holders if holding.epoch == epoch}
        case unknown:
            assert_never(unknown)


def _loads(plan: Plan, demand: Demand, emitted: int, missing: frozenset[int]) -> dict[str, Load]:
    loads = {worker: Load(requests=1) for worker in (*plan.encode, plan.prefill, plan.decode)}
    loads[plan.prefill] += Load(tokens=demand.prompt_tokens + emitted)
    for index in missing:
        loads[plan.encode[index]] += Load(patches=demand.patches[index])
    return loads
