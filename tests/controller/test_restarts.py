from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from triptych.controller.restarts import FIRST_DELAY, HEALTHY_AFTER, LONGEST_DELAY, RestartHistory, after_death


def test_the_first_death_is_followed_by_a_start_at_once() -> None:
    assert after_death(RestartHistory(), 0.0) == (RestartHistory(1, 1), 0.0)


def test_the_wait_doubles_while_a_worker_keeps_dying_soon() -> None:
    history, delays = RestartHistory(), []
    for _ in range(10):
        history, delay = after_death(history, 1.0)
        delays.append(delay)
    assert delays[:4] == [0.0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert all(later == min(LONGEST_DELAY, 2 * earlier) for earlier, later in pairwise(delays[1:]))
    assert delays[-1] == LONGEST_DELAY
    assert history == RestartHistory(10, 10)


def test_a_worker_that_lived_long_enough_starts_afresh() -> None:
    assert after_death(RestartHistory(7, 7), HEALTHY_AFTER) == (RestartHistory(8, 1), 0.0)


@given(st.lists(st.floats(0, 1000), max_size=2000))
def test_every_delay_is_bounded_and_every_death_counted(lives: list[float]) -> None:
    history = RestartHistory()
    for lived in lives:
        history, delay = after_death(history, lived)
        assert 0.0 <= delay <= LONGEST_DELAY
    assert history.total == len(lives)
