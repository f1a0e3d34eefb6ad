"""What one request weighs on each of its workers, derived from its state so that the books cannot drift."""

from dataclasses import dataclass
from typing import assert_never

from triptych.core.plan import Demand, Plan
from triptych.core.request import Decoding, Encoding, Ended, Prefilling, Queued, Record, Reserving


@dataclass(frozen=True, slots=True)
class Load:
    """Dispatched work: requests, prompt tokens that wait for prefill, images that wait for encoding."""

    requests: int = 0
    tokens: int = 0
    images: int = 0

    def __add__(self, other: "Load") -> "Load":
        return Load(self.requests + other.requests, self.tokens + other.tokens, self.images + other.images)

    def __sub__(self, other: "Load") -> "Load":
        return Load(self.requests - other.requests, self.tokens - other.tokens, self.images - other.images)


def load_of(record: Record, demand: Demand) -> dict[str, Load]:
    """The load by worker; counted from the moment the request is dispatched, on every path."""
    match record.state:
        case Queued() | Ended():
            return {}
        case Encoding(plan, missing):
            return _loads(plan, demand.prompt_tokens, missing)
        case Reserving(plan) | Prefilling(plan):
            return _loads(plan, demand.prompt_tokens, frozenset())
        case Decoding():
            return {worker: Load(requests=1) for worker in record.holders}
        case unknown:
            assert_never(unknown)


def _loads(plan: Plan, tokens: int, missing: frozenset[int]) -> dict[str, Load]:
    loads = {worker: Load(requests=1) for worker in (*plan.encode, plan.prefill, plan.decode)}
    loads[plan.prefill] += Load(tokens=tokens)
    for index in missing:
        loads[plan.encode[index]] += Load(images=1)
    return loads
