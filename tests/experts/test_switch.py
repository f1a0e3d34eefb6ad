import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from triptych.experts.residency import Counts
from triptych.experts.speculation import STEPS, SpeculationSwitch
from triptych.experts.switch import Resting, State, Trying, Window, after

Run = Callable[[bool], Window]


def verdicts(run: Run, windows: int) -> Iterator[Resting]:
    """Those that a trial has just given."""
    state: State = Resting()
    for _ in range(windows):
        tried = isinstance(state, Trying)
        state = after(state, run(state.speculating))
        if tried and isinstance(state, Resting):
            yield state


def steps(seconds_with: float, seconds_without: float, noise: float = 0.0, seed: int = 0) -> Run:
    print(f"{seed=}")
    rng = random.Random(seed)

    def run(speculating: bool) -> Window:
        seconds = seconds_with if speculating else seconds_without
        return Window(seconds * (1 + rng.gauss(0, noise)), 360.0, 80 if speculating else 0)

    return run


@pytest.mark.parametrize("seed", range(5))
def test_what_makes_steps_longer_is_given_up(seed: int) -> None:
    first = next(verdicts(steps(0.012, 0.010, noise=0.03, seed=seed), 200))
    assert not first.speculating
    assert "does not pay" in first.why


@pytest.mark.parametrize("seed", range(5))
def test_what_makes_steps_shorter_is_kept(seed: int) -> None:
    first = next(verdicts(steps(0.010, 0.012, noise=0.03, seed=seed), 200))
    assert first.speculating
    assert "pays" in first.why


@pytest.mark.parametrize("seed", range(5))
def test_what_cannot_be_told_from_noise_is_given_up_and_trials_become_seldom(seed: int) -> None:
    found = list(verdicts(steps(0.010, 0.010, noise=0.01, seed=seed), 3000))
    assert not any(verdict.speculating for verdict in found)
    assert found[-1].rest == 1024
    assert "no difference worth its reads" in found[0].why


@pytest.mark.parametrize("with_", [0.00990, 0.01010])
def test_a_gain_below_the_margin_is_none(with_: float) -> None:
    found = list(verdicts(steps(with_, 0.010), 500))
    assert found
    assert not any(verdict.speculating for verdict in found)


@pytest.mark.parametrize("growth", [0.98, 1.02])
@pytest.mark.parametrize(("with_", "pays"), [(0.0095, True), (0.010, False)])
def test_drift_is_no_argument(growth: float, with_: float, pays: bool) -> None:
    elapsed = iter(range(10_000))
    found = list(verdicts(lambda on: Window((with_ if on else 0.010) * growth ** next(elapsed), 360.0, 80), 100))
    assert found
    assert all(verdict.speculating is pays for verdict in found)


def test_what_did_not_pay_is_tried_again_and_taken_up_when_it_does() -> None:
    slow, fast = steps(0.012, 0.010), steps(0.008, 0.010)
    calls = iter(range(10_000))
    found = list(verdicts(lambda on: (slow if next(calls) < 60 else fast)(on), 300))
    assert [verdict.speculating for verdict in found][:2] == [False, True]


def test_windows_of_unlike_work_are_not_compared() -> None:
    calls = iter(range(10_000))

    def run(on: bool) -> Window:
        busy = next(calls) % 2
        return Window(0.02 if on else 0.01, 900.0 if busy else 300.0, 80)

    assert not list(verdicts(run, 500))


def test_where_nothing_is_read_in_advance_nothing_is_decided() -> None:
    assert not list(verdicts(lambda on: Window(0.01, 300.0, 0), 500))


def test_a_trial_has_as_many_windows_with_as_without() -> None:
    state: State = Trying(Resting())
    shown = []
    while isinstance(state, Trying):
        shown.append(state.speculating)
        state = after(state, Window(0.01, 300.0, 10))
    assert shown == [True, False, False, True] * 4


def test_it_is_written_down_when_the_answer_changed() -> None:
    switch, now, demanded, prefetched = SpeculationSwitch(), 0.0, 0, 0
    answers = []
    while len(switch.turns) < 40:
        answers.append(switch.on)
        now += 0.012 if switch.on else 0.010
        demanded, prefetched = demanded + 360, prefetched + 80 * switch.on
        switch.step(now, partial(Counts, demanded=demanded, prefetched=prefetched))
    assert answers == [bisect_right(switch.turns, step) % 2 == 0 for step in range(len(answers))]
    assert not all(answers)


def test_a_pause_between_requests_is_no_long_step() -> None:
    switch, now, demanded, prefetched = SpeculationSwitch(), 0.0, 0, 0
    tried = False
    while not tried or isinstance(switch.state, Trying):
        for step in range(STEPS + 1):
            now += (0.012 if switch.on else 0.010) + 100.0 * (step == 4)
            demanded, prefetched = demanded + 360, prefetched + 80 * switch.on
            counts = Counts(demanded=demanded, prefetched=prefetched)
            assert switch.step(now, lambda counts=counts: counts) is (step == STEPS)  # type: ignore[misc]
        tried = tried or isinstance(switch.state, Trying)
    assert not switch.verdict.speculating
    assert "20.0% longer" in switch.verdict.why
