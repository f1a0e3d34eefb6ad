"""Numbers turn a lost message into an ended stream, and a doubled one into nothing."""

import random

import pytest

from tests.support.seeds import drawn_seed
from triptych.core.errors import InvalidArgument
from triptych.core.stream import Fresh, Missing, Numbering, Ordering, Repeated


def test_numbers_count_from_one() -> None:
    numbering = Numbering()
    assert [numbering.next() for _ in range(4)] == [1, 2, 3, 4]


def test_messages_in_order_are_fresh() -> None:
    ordering = Ordering()
    assert {ordering.accept(number) for number in range(1, 100)} == {Fresh()}


def test_the_first_message_is_number_one() -> None:
    assert Ordering().accept(2) == Missing(1, 2)


def test_a_repeated_message_changes_nothing() -> None:
    ordering = Ordering()
    arrivals = [ordering.accept(number) for number in (1, 2, 2, 1, 3)]
    assert arrivals == [Fresh(), Fresh(), Repeated(), Repeated(), Fresh()]


def test_a_missing_message_is_named_and_stays_missing() -> None:
    ordering = Ordering()
    ordering.accept(1)
    assert ordering.accept(4) == Missing(2, 4)
    assert ordering.accept(5) == Missing(2, 5)
    assert str(Missing(2, 4)) == "message 2 of the stream is missing: number 4 came instead"


@pytest.mark.parametrize("number", [0, -1])
def test_a_message_without_a_number_is_refused(number: int) -> None:
    with pytest.raises(InvalidArgument, match=f"from 1 on, not {number}") as caught:
        Ordering().accept(number)
    assert caught.value.field == "number"


def test_what_a_bad_network_lets_through_is_a_beginning_without_gaps() -> None:
    """Lost, doubled and swapped at random: up to the first gap everything is handled once and in order."""
    seed = drawn_seed()
    dice = random.Random(seed)
    for _ in range(200):
        sent = [n for n in range(1, 41) for _ in range(dice.choice((1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2)))]
        if dice.random() < 0.5:
            place = dice.randrange(len(sent) - 1)
            sent[place : place + 2] = reversed(sent[place : place + 2])
        ordering, handled = Ordering(), list[int]()
        for number in sent:
            match ordering.accept(number):
                case Fresh():
                    handled.append(number)
                case Missing(expected):
                    assert expected == len(handled) + 1
                    break
                case Repeated():
                    assert number in handled
        assert handled == list(range(1, len(handled) + 1))
