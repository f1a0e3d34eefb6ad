"""Statistics of a run: pure functions from outcomes to figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from triptych.cli.bench.serve.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Latency:
    """Mean and percentiles, in seconds."""

    mean: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """None of no values."""
        if not values:
            return None
        ordered = sorted(values)
        return cls(sum(ordered) / len(ordered), *(percentile(ordered, share) for share in (0.50, 0.95, 0.99)))


@dataclass(frozen=True, slots=True)
class Slo:
    """What a user accepts, in seconds; None accepts anything."""

    first_token: float | None = None
    per_token: float | None = None

    def met_by(self, outcome: Outcome) -> bool:
        """Whether a request was answered, and in time."""
        if not outcome.answered:
            return False
        pace = outcome.per_token
        return (self.first_token is None or outcome.first_token <= self.first_token) and (
            self.per_token is None or pace is None or pace <= self.per_token
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """One run.

    Attributes:
        requests: That were sent.
        answered: That ended without error.
        errors: How many ended with each class of error; "NoTokens" is an empty answer.
        seconds: From the beginning to the end of the last request.
        output_tokens: That arrived, those of failed requests included.
        good: Requests that met the SLO.
        first_token: TTFT of answered requests.
        per_token: TPOT of answered requests that had more than one message.
        between: ITL, every gap of every answered request.
        end_to_end: E2E of answered requests.
        late: How much after its time a request was sent: what the load generator itself could not do.
    """

    requests: int
    answered: int
    errors: Mapping[str, int]
    seconds: float
    output_tokens: int
    good: int
    first_token: Latency | None
    per_token: Latency | None
    between: Latency | None
    end_to_end: Latency | None
    late: Latency | None

    @property
    def output_rate(self) -> float:
        """Output tokens per second."""
        return self.output_tokens / self.seconds if self.seconds else 0.0

    @property
    def answer_rate(self) -> float:
        """Answered requests per second."""
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def goodput(self) -> float:
        """Requests per second that met the SLO."""
        return self.good / self.seconds if self.seconds else 0.0


def summarize(outcomes: Sequence[Outcome], slo: Slo) -> Summary:
    """The figures of a run."""
    answered = [outcome for outcome in outcomes if outcome.answered]
    paces = (outcome.per_token for outcome in answered)
    return Summary(
        requests=len(outcomes),
        answered=len(answered),
        errors=dict(Counter(outcome.error or "NoTokens" for outcome in outcomes if not outcome.answered)),
        seconds=max((outcome.ended for outcome in outcomes), default=0.0),
        output_tokens=sum(outcome.tokens for outcome in outcomes),
        good=sum(slo.met_by(outcome) for outcome in outcomes),
        first_token=Latency.of([outcome.first_token for outcome in answered]),
        per_token=Latency.of([pace for pace in paces if pace is not None]),
        between=Latency.of([gap for outcome in answered for gap in outcome.gaps]),
        end_to_end=Latency.of([outcome.end_to_end for outcome in answered]),
        late=Latency.of([outcome.sent - outcome.due for outcome in outcomes]),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of ordered values lie, linear between neighbours (Hyndman and Fan, type 7)."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
