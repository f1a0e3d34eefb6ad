"""The notations of a budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.core.errors import InvalidArgument
from triptych.experts.settings import (
    Auto,
    Budget,
    Bytes,
    Fraction,
    OffloadSettings,
    format_budget,
    offload_settings,
    parse_budget,
)


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        ("auto", Auto()),
        (" 50% ", Fraction(0.5)),
        ("12.5 %", Fraction(0.125)),
        ("100%", Fraction(1.0)),
        ("1.5GiB", Bytes(3 << 29)),
        ("4096", Bytes(4096)),
        (4096, Bytes(4096)),
    ],
)
def test_a_budget_is_auto_a_share_or_a_size(given: str | int, budget: Budget) -> None:
    assert parse_budget(given) == budget
    assert parse_budget(format_budget(budget)) == budget


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("0%", "must be above 0% and at most 100%, got 0%"),
        ("101%", "must be above 0% and at most 100%, got 101%"),
        (0, "must be positive, got 0"),
        ("half", "must be auto, a share such as 50%, or a size such as 1.5GiB, got 'half'"),
        ("-5%", "must be auto, a share"),
        (True, "must be auto, a share"),
        (0.5, "must be auto, a share"),
        (None, "must be auto, a share"),
    ],
)
def test_anything_else_is_refused(given: object, what: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_budget(given)
    assert caught.value.field == "experts.budget"
    assert f"experts.budget {what}" in caught.value.message


def test_turns_need_a_pool_that_follows_them() -> None:
    with pytest.raises(InvalidArgument, match=r"experts\.regroup needs experts\.policy lru, got lfu-decay"):
        OffloadSettings(budget=Fraction(0.5), regroup=True)
    assert OffloadSettings(budget=Fraction(0.5), policy="lru", regroup=True).regroup


@given(st.integers(1, 2**50))
def test_bytes_read_what_they_write(count: int) -> None:
    assert parse_budget(format_budget(Bytes(count))) == Bytes(count)


def test_a_budget_alone_stands_for_settings() -> None:
    assert offload_settings(None) is None
    assert offload_settings("25%") == OffloadSettings(budget=Fraction(0.25))
    settings = OffloadSettings(budget=Auto(), policy="lru")
    assert offload_settings(settings) is settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("readers", 0), ("widen", -1), ("speculation", -0.1), ("speculation", 1.5), ("host_budget", 0)],
)
def test_numbers_that_cannot_be_meant_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidArgument, match=f"experts.{name} must be in .* got {value}"):
        OffloadSettings(budget=Fraction(0.5), **{name: value})
