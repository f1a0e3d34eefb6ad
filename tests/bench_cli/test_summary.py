"""Statistics against numbers worked out by hand."""

import random

import numpy as np
import pytest

from triptych.cli.bench.serve.outcome import Message, Outcome
from triptych.cli.bench.serve.summary import Latency, Slo, percentile, summarize

FAST = Outcome(0.0, 0.0, (Message(0.25, 1), Message(0.75, 2), Message(1.25, 2)), 1.25)
SLOW = Outcome(1.0, 1.5, (Message(3.0, 1), Message(7.0, 4)), 7.5)
AT_ONCE = Outcome(2.0, 2.0, (Message(2.5, 6),), 2.5)
REFUSED = Outcome(3.0, 3.0, (), 3.25, "ResourceExhausted")
BROKEN = Outcome(4.0, 4.0, (Message(4.5, 2),), 10.0, "Unavailable")
EMPTY = Outcome(5.0, 5.0, (), 5.5)


def test_one_request() -> None:
    assert (FAST.first_token, FAST.end_to_end, FAST.tokens) == (0.25, 1.25, 5)
    assert FAST.per_token == 1.0 / 4
    assert FAST.gaps == (0.5, 0.5)
    assert (SLOW.first_token, SLOW.per_token, SLOW.end_to_end) == (2.0, 1.0, 6.5)
    assert (AT_ONCE.per_token, AT_ONCE.gaps) == (None, ())


def test_a_run() -> None:
    found = summarize([FAST, SLOW, AT_ONCE, REFUSED, BROKEN, EMPTY], Slo(first_token=1.0))
    assert (found.requests, found.answered) == (6, 3)
    assert found.errors == {"ResourceExhausted": 1, "Unavailable": 1, "NoTokens": 1}
    assert (found.seconds, found.output_tokens) == (10.0, 18)
    assert (found.output_rate, found.answer_rate) == (1.8, 0.3)
    assert (found.good, found.goodput) == (2, 0.2)
    assert found.first_token is not None
    assert (found.first_token.mean, found.first_token.p50) == (pytest.approx(2.75 / 3), 0.5)
    assert found.per_token is not None
    assert (found.per_token.p50, found.per_token.p99) == (0.625, pytest.approx(0.25 + 0.99 * 0.75))
    assert found.between is not None
    assert (found.between.p50, found.between.mean) == (0.5, pytest.approx(5 / 3))
    assert found.late is not None
    assert found.late.p50 == 0.0
    assert found.late.p99 == pytest.approx(0.5 * 0.95)


@pytest.mark.parametrize(
    ("slo", "good"),
    [(Slo(), [True, True, True]), (Slo(first_token=0.5), [True, False, True]),
     (Slo(per_token=0.5), [True, False, True]), (Slo(first_token=0.3, per_token=0.1), [False, False, False])],
)  # fmt: skip
def test_a_request_is_good_when_it_meets_every_limit(slo: Slo, good: list[bool]) -> None:
    assert [slo.met_by(outcome) for outcome in (FAST, SLOW, AT_ONCE)] == good
    assert not any(slo.met_by(outcome) for outcome in (REFUSED, BROKEN, EMPTY))


def test_nothing_answered_has_no_latencies() -> None:
    found = summarize([REFUSED], Slo())
    assert (found.first_token, found.per_token, found.between, found.end_to_end) == (None,) * 4
    assert summarize([], Slo()).output_rate == 0.0


def test_percentiles_are_those_of_numpy(seed: int) -> None:
    source = random.Random(seed)
    for count in (1, 2, 3, 50, 101):
        values = sorted(source.expovariate(1.0) for _ in range(count))
        for share in (0.0, 0.5, 0.95, 0.99, 1.0):
            assert percentile(values, share) == pytest.approx(float(np.percentile(values, 100 * share)))
    latency = Latency.of([3.0, 1.0, 2.0])
    assert latency == Latency(2.0, 2.0, pytest.approx(2.9), pytest.approx(2.98))
