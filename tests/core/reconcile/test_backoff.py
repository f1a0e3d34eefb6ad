from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from triptych.core.reconcile import Policy, RestartHistory, after_death

POLICY = Policy()


def test_the_first_death_is_followed_by_a_start_at_once() -> None:
    assert after_death(RestartHistory(), 0.0, POLICY) == (RestartHistory(1, 1), 0.0)


def test_the_wait_doubles_while_a_worker_keeps_dying_soon() -> None:
    history, delays = RestartHistory(), []
    for _ in range(10):
        history, delay = after_death(history, 1.0, POLICY)
        delays.append(delay)
    assert delays[:4] == [0.0, POLICY.first_delay, 2 * POLICY.first_delay, 4 * POLICY.first_delay]
    assert all(later == min(POLICY.longest_delay, 2 * earlier) for earlier, later in pairwise(delays[1:]))
    assert delays[-1] == POLICY.longest_delay
    assert history == RestartHistory(10, 10)


def test_a_worker_that_lived_long_enough_starts_afresh() -> None:
    assert after_death(RestartHistory(7, 7), POLICY.healthy_after, POLICY) == (RestartHistory(8, 1), 0.0)


@given(st.lists(st.floats(0, 1000), max_size=2000))
def test_every_delay_is_bounded_and_every_death_counted(lives: list[float]) -> None:
    history = RestartHistory()
    for lived in lives:
        history, delay = after_death(history, lived, POLICY)
        assert 0.0 <= delay <= POLICY.longest_delay
    assert history.total == len(lives)
