"""When a request is asked again: the decision alone."""

import pytest

from triptych.client.recovery import (
    FIRST_WAIT,
    LONGEST_WAIT,
    Again,
    Answered,
    Broken,
    Failure,
    Known,
    Lost,
    New,
    State,
    Unreached,
    after,
)
from triptych.core.errors import Internal, InvalidArgument, ResourceExhausted, TriptychError, Unavailable

GONE = Unavailable("gone")
FULL = ResourceExhausted("full", retry_after=0.7)
STARTING = Unavailable("no worker is ready", retry_after=0.5)
LOST = Lost(since=100.0, failures=1)


@pytest.mark.parametrize("state", [New(), Known(), LOST])
@pytest.mark.parametrize(
    "error",
    [InvalidArgument("no"), Internal("oh", retry_after=1), GONE, ResourceExhausted("too large")],
)
def test_an_answer_that_does_not_say_when_to_come_back_is_final(state: State, error: TriptychError) -> None:
    assert after(state, Answered(error), 60.0, 100.0, 0.5) is error


@pytest.mark.parametrize("failure", [Answered(FULL), Answered(STARTING), Unreached(GONE)])
def test_at_first_contact_only_a_broken_connection_is_asked_again(failure: Failure) -> None:
    assert after(New(), failure, 60.0, 100.0, 0.5) is failure.error
    assert isinstance(after(New(), Broken(GONE), 60.0, 100.0, 0.5), Again)


@pytest.mark.parametrize("state", [Known(), LOST])
@pytest.mark.parametrize("failure", [Answered(FULL), Answered(STARTING), Unreached(GONE), Broken(GONE)])
def test_a_server_that_has_had_the_request_is_asked_again(state: State, failure: Failure) -> None:
    assert isinstance(after(state, failure, 60.0, 100.0, 0.5), Again)


def test_without_patience_nothing_is_asked_again() -> None:
    assert after(Known(), Broken(GONE), 0.0, 100.0, 0.5) is GONE


def test_the_waits_grow_to_two_seconds_and_are_spread() -> None:
    state: State = Known()
    least, most = [], []
    for _ in range(8):
        low, high = (after(state, Broken(GONE), 60.0, 100.0, chance) for chance in (0.0, 1.0))
        assert isinstance(low, Again)
        assert isinstance(high, Again)
        least.append(low.wait)
        most.append(high.wait)
        state = low.state
    assert most == [pytest.approx(min(LONGEST_WAIT, FIRST_WAIT * 2**n)) for n in range(8)]
    assert least == [pytest.approx(wait / 2) for wait in most]


def test_the_patience_counts_from_the_loss_and_no_wait_outlasts_it() -> None:
    last = after(Lost(100.0, 9), Unreached(GONE), 60.0, 159.5, 1.0)
    assert last == Again(Lost(100.0, 10), wait=0.5)
    assert after(Lost(100.0, 10), Unreached(GONE), 60.0, 160.0, 1.0) is GONE


def test_a_server_that_says_when_is_not_asked_before() -> None:
    decision = after(LOST, Answered(FULL), 60.0, 100.0, 0.0)
    assert isinstance(decision, Again)
    assert decision.wait == 0.7


def test_however_long_the_patience_the_waits_stay_finite() -> None:
    state: State = Known()
    for _ in range(5000):
        decision = after(state, Unreached(GONE), float("inf"), 100.0, 1.0)
        assert isinstance(decision, Again)
        assert decision.wait <= LONGEST_WAIT
        state = decision.state
