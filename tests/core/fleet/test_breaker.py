"""A worker that keeps failing gets a pause, then one request, then its trust back or twice the pause."""

from hypothesis import given
from hypothesis import strategies as st

from triptych.core.fleet.breaker import (
    LONGEST_PAUSE,
    PROBE_SECONDS,
    THRESHOLD,
    TRUSTED,
    Breaker,
    Closed,
    Open,
    Probing,
    admits,
    dispatched,
    failed,
    succeeded,
)


def tripped(now: float) -> Breaker:
    breaker: Breaker = TRUSTED
    for _ in range(THRESHOLD):
        breaker = failed(breaker, now)
    return breaker


def test_failures_in_a_row_open_it_and_others_do_not() -> None:
    breaker: Breaker = TRUSTED
    for _ in range(3):
        for _ in range(THRESHOLD - 1):
            breaker = failed(breaker, 0.0)
        assert admits(breaker, 0.0)
        breaker = succeeded(breaker)
    assert breaker == TRUSTED
    assert tripped(0.0) == Open(2.0, 1)


def test_after_the_pause_one_request_proves_the_worker() -> None:
    breaker = tripped(0.0)
    assert not admits(breaker, 1.9)
    assert admits(breaker, 2.0)
    breaker = dispatched(breaker, 2.0)
    assert breaker == Probing(2.0, 1)
    assert not admits(breaker, 3.0)
    assert succeeded(breaker) == TRUSTED


def test_each_failed_proof_doubles_the_pause_up_to_a_limit() -> None:
    breaker, now, pauses = tripped(0.0), 0.0, []
    for _ in range(8):
        assert isinstance(breaker, Open)
        pauses.append(breaker.until - now)
        now = breaker.until
        breaker = failed(dispatched(breaker, now), now)
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_proof_that_never_ends_makes_room_for_the_next() -> None:
    breaker = dispatched(tripped(0.0), 2.0)
    assert not admits(breaker, 2.0 + PROBE_SECONDS - 0.1)
    assert admits(breaker, 2.0 + PROBE_SECONDS)
    assert dispatched(breaker, 40.0) == Probing(40.0, 1)


def test_failures_of_what_was_sent_before_it_opened_count_once() -> None:
    breaker = tripped(0.0)
    assert failed(breaker, 1.0) is breaker


@given(st.lists(st.tuples(st.sampled_from([dispatched, failed]), st.floats(0.1, 9.0))))
def test_it_admits_again_sooner_or_later(steps: list[tuple[object, float]]) -> None:
    breaker: Breaker = TRUSTED
    now = 0.0
    for step, pause in steps:
        now += pause
        if step is failed:
            breaker = failed(breaker, now)
        elif admits(breaker, now):
            breaker = dispatched(breaker, now)
        assert isinstance(breaker, Closed | Open | Probing)
        assert admits(breaker, now + LONGEST_PAUSE)
        assert admits(succeeded(breaker), now)
