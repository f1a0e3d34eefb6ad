"""Whom a failure may speak against: who reports it is often not who caused it."""

from triptych.core.errors import Internal, TriptychError
from triptych.core.request.record import Record
from triptych.core.request.states import Decoding, Placed, Prefilling, Transferring


def suspects(record: Record, reporter: str, error: TriptychError) -> frozenset[str]:
    """Workers that the next attempt had better do without.

    A defect is the reporter's own. What could not be moved, or arrived damaged, is reported by whoever tried to send
    or to fetch it, and may as well be the other side's doing. For the same reason only defects count for a circuit
    breaker: a worker that all others exchange data with must not be shut because one of them fails.
    """
    alone = frozenset({reporter})
    state = record.state
    if isinstance(error, Internal) or not isinstance(state, Placed):
        return alone
    plan = state.plan
    match state:
        case Prefilling() | Transferring():
            return alone | {*plan.encode, plan.prefill, plan.decode}
        case Decoding():  # embeddings are fetched once more when KV has to be computed again
            return alone | {*plan.encode}
        case _:
            return alone
