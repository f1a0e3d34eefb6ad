"""How long nothing was wrong: what is held against the cluster, and what is not."""

import pytest

from triptych.core.fleet.stage import Stage
from triptych.simulator.agenda import Agenda
from triptych.simulator.troubles import Troubles

HEALING = 10.0
ALL = (Stage.ENCODE, Stage.PREFILL, Stage.DECODE)


@pytest.fixture
def agenda() -> Agenda:
    return Agenda()


@pytest.fixture
def troubles(agenda: Agenda) -> Troubles:
    return Troubles(agenda, HEALING)


def test_a_misfortune_excuses_its_own_time_its_noticing_and_its_healing_and_no_more(
    agenda: Agenda, troubles: Troubles
) -> None:
    agenda.now = 100.0
    troubles.begin(5.0, noticing=30.0)
    assert troubles.calm(90.0, 200.0, for_pairs=True) == 10.0 + 55.0
    assert troubles.calm(110.0, 140.0, for_pairs=True) == 0.0


def test_two_at_once_excuse_nothing_twice(agenda: Agenda, troubles: Troubles) -> None:
    troubles.begin(20.0)
    agenda.now = 5.0
    troubles.begin(0.0)
    agenda.now = 40.0
    troubles.begin(0.0)
    assert troubles.calm(0.0, 60.0, for_pairs=False) == 10.0 + 10.0


@pytest.mark.parametrize(
    ("away", "good_again"),
    [
        (2.0, 35.0),  # nothing has to be healed yet
        (12.0, 38.0),  # three of the six seconds are of the misfortune itself
        (20.0, 55.0),
        (36.0, 35.0),  # it is over
    ],
)
def test_nothing_is_healed_while_nobody_is_there_to_do_it(
    away: float, good_again: float, agenda: Agenda, troubles: Troubles
) -> None:
    troubles.begin(15.0, noticing=10.0)
    agenda.now = away
    troubles.nobody_heals(20.0 if away > 12.0 else 6.0)
    assert troubles.calm(0.0, 100.0, for_pairs=False) == 100.0 - good_again


def test_only_who_insists_on_two_workers_misses_the_prefill_workers(agenda: Agenda, troubles: Troubles) -> None:
    troubles.ordered(ALL)
    agenda.now = 10.0
    troubles.ordered((Stage.ENCODE, Stage.DECODE))
    troubles.ordered((Stage.DECODE,))
    agenda.now = 50.0
    assert troubles.vacant_for == 40.0
    assert troubles.calm(0.0, 50.0, for_pairs=True) == 10.0
    assert troubles.calm(0.0, 50.0, for_pairs=False) == 50.0
    troubles.ordered(ALL)
    agenda.now = 100.0
    assert troubles.vacant_for == 0.0
    assert troubles.calm(0.0, 100.0, for_pairs=True) == 10.0 + 40.0
