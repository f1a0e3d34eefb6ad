"""Steps that a commit made slow."""

from triptych.parallel.balance import StepWatch


def test_a_step_is_slow_when_it_takes_a_whole_step_longer_than_the_longest_around_it() -> None:
    watch = StepWatch()
    watch.took_after_commit(9.0)
    assert watch.slow == 0  # nothing to compare it to
    for seconds in (0.1, 0.3, 0.2):
        watch.took(seconds)
    watch.took_after_commit(0.6)
    assert watch.slow == 0
    watch.took_after_commit(0.7)
    assert watch.slow == 1


def test_what_is_long_ago_does_not_count() -> None:
    watch = StepWatch()
    watch.took(9.0)
    for _ in range(16):
        watch.took(0.1)
    watch.took_after_commit(1.0)
    assert watch.slow == 1
