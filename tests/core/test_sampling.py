"""Sampling parameters are checked where they are made: every refusal names the field, the limit and the value."""

import math
from dataclasses import fields
from typing import Any

import pytest

from triptych.core.errors import InvalidArgument
from triptych.core.sampling import (
    MAX_CHOICES,
    MAX_LOGPROBS,
    MAX_STOP_LENGTH,
    MAX_STOPS,
    SamplingParams,
    choice_seed,
    seed_of,
)

LIMITS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], str]] = {
    # field: (accepted, refused, the limit as the message says it)
    "temperature": ((0, 0.0, 5e-324, 1, 100.0), (-1, -5e-324, 100.1, math.inf, -math.inf), "[0, 100]"),
    "top_p": ((5e-324, 0.5, 1, 1.0), (0, 0.0, -0.1, 1.0000001), "(0, 1]"),
    "min_p": ((0, 0.5, 1.0), (-0.1, 1.1), "[0, 1]"),
    "repetition_penalty": ((5e-324, 1, 100), (0, 0.0, -1, 101), "(0, 100]"),
    "presence_penalty": ((-2, 0, 2.0), (-2.1, 2.1), "[-2, 2]"),
    "frequency_penalty": ((-2, 0, 2.0), (-2.1, 2.1), "[-2, 2]"),
    "top_k": ((0, 1, 2**31 - 1), (-1, 2**31), "[0, 2147483647]"),
    "min_tokens": ((0, 1, 2**31 - 1), (-1, 2**31), "[0, 2147483647]"),
    "n": ((1, MAX_CHOICES), (0, -1, MAX_CHOICES + 1), "[1, 128]"),
    "max_tokens": ((None, 1, 2**31 - 1), (0, -1, 2**31), "[1, 2147483647]"),
    "seed": ((None, 0, 2**64 - 1), (-1, 2**64), "[0, 18446744073709551615]"),
    "logprobs": ((None, 0, MAX_LOGPROBS), (-1, MAX_LOGPROBS + 1), "[0, 20]"),
}
REALS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
WHOLES = ("top_k", "max_tokens", "min_tokens", "n", "seed", "logprobs")
FLAGS = ("ignore_eos", "skip_special_tokens")
ALWAYS = ("presence_penalty", "frequency_penalty", "min_tokens", "n")
"""What no model has a default for."""


def refusal(**values: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        SamplingParams(**values)
    return caught.value


def test_every_field_is_tested_here() -> None:
    assert {field.name for field in fields(SamplingParams)} == {*LIMITS, *FLAGS, "stop", "stop_token_ids"}


@pytest.mark.parametrize("field", LIMITS)
def test_the_limits_themselves_are_allowed(field: str) -> None:
    for value in LIMITS[field][0]:
        assert getattr(SamplingParams(**{field: value}), field) == value


@pytest.mark.parametrize("field", LIMITS)
def test_what_lies_beyond_is_refused_with_field_limit_and_value(field: str) -> None:
    _, refused, limit = LIMITS[field]
    for value in refused:
        error = refusal(**{field: value})
        assert error.field == f"sampling.{field}"
        assert error.message.startswith(f"sampling.{field} must be ")
        assert limit in error.message
        assert error.message.endswith(f"got {value!r}")


@pytest.mark.parametrize("field", REALS)
@pytest.mark.parametrize("value", [math.nan, True, False, "0.5", 1j, [1.0]])
def test_what_is_not_a_number_is_refused(field: str, value: Any) -> None:
    error = refusal(**{field: value})
    assert error.field == f"sampling.{field}"
    assert error.message.endswith(f"got {value!r}")


@pytest.mark.parametrize("field", [*REALS, *WHOLES])
def test_what_a_model_may_have_a_default_for_may_be_left_open(field: str) -> None:
    if field in ALWAYS:
        assert refusal(**{field: None}).field == f"sampling.{field}"
    else:
        assert getattr(SamplingParams(**{field: None}), field) is None


@pytest.mark.parametrize("field", WHOLES)
@pytest.mark.parametrize("value", [1.0, math.nan, True, "1", [1]])
def test_what_is_not_a_whole_number_is_refused(field: str, value: Any) -> None:
    error = refusal(**{field: value})
    assert error.field == f"sampling.{field}"
    assert "must be a whole number in [" in error.message


@pytest.mark.parametrize("field", [*REALS, *WHOLES])
def test_a_number_too_long_to_write_is_described(field: str) -> None:
    for value in (10**5000, -(10**5000)):
        assert refusal(**{field: value}).message.endswith("got a number of 16610 bits")


@pytest.mark.parametrize("field", FLAGS)
@pytest.mark.parametrize("value", [0, 1, "no", None])
def test_a_flag_is_true_or_false(field: str, value: Any) -> None:
    assert refusal(**{field: value}).message == f"sampling.{field} must be True or False, got {value!r}"


def test_stops_are_kept_as_tuples() -> None:
    params = SamplingParams(stop=["a", "b"], stop_token_ids=[1, 2])  # type: ignore[arg-type]
    assert (params.stop, params.stop_token_ids) == (("a", "b"), (1, 2))
    assert SamplingParams(stop="end").stop == ("end",)  # type: ignore[arg-type]
    assert SamplingParams(stop=("x" * MAX_STOP_LENGTH,) * MAX_STOPS).stop[-1] == "x" * MAX_STOP_LENGTH


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("stop", ("a",) * 17, "sampling.stop may hold at most 16 entries, got 17"),
        ("stop_token_ids", tuple(range(17)), "sampling.stop_token_ids may hold at most 16 entries, got 17"),
        ("stop", ("a", ""), "each sampling.stop must be a text of 1 to 256 characters, got ''"),
        ("stop", "", "each sampling.stop must be a text of 1 to 256 characters, got ''"),
        ("stop", ("x" * 257,), "each sampling.stop must be a text of 1 to 256 characters, got '" + "x" * 59),
        ("stop", (3,), "each sampling.stop must be a text of 1 to 256 characters, got 3"),
        ("stop", b"a", "each sampling.stop must be a text of 1 to 256 characters, got 97"),
        ("stop", 3, "sampling.stop must be a list, got 3"),
        ("stop", None, "sampling.stop must be a list, got None"),
        ("stop_token_ids", 3, "sampling.stop_token_ids must be a list, got 3"),
        ("stop_token_ids", (-1,), "sampling.stop_token_ids must be a whole number in [0, 2147483647], got -1"),
        ("stop_token_ids", (1.0,), "sampling.stop_token_ids must be a whole number in [0, 2147483647], got 1.0"),
        ("stop_token_ids", (True,), "sampling.stop_token_ids must be a whole number in [0, 2147483647], got True"),
        ("stop_token_ids", "7", "sampling.stop_token_ids must be a whole number in [0, 2147483647], got '7'"),
    ],
)
def test_wrong_stops_are_refused(field: str, value: Any, message: str) -> None:
    error = refusal(**{field: value})
    assert (error.field, error.message) == (f"sampling.{field}", message)


def test_what_is_left_open_takes_the_defaults_and_what_is_set_stays() -> None:
    defaults = SamplingParams(temperature=0.6, top_k=20, top_p=0.95, min_p=0.1, repetition_penalty=1.05, max_tokens=9)
    asked = SamplingParams(temperature=1.0, top_k=0, seed=3, presence_penalty=0.5, stop=("a",))
    assert asked.over(defaults) == SamplingParams(
        temperature=1.0,
        top_k=0,
        top_p=0.95,
        min_p=0.1,
        repetition_penalty=1.05,
        seed=3,
        presence_penalty=0.5,
        stop=("a",),
    )
    assert asked.over(SamplingParams()) == asked


def test_an_answer_ends_at_its_own_stop_tokens_and_at_the_models() -> None:
    assert SamplingParams(stop_token_ids=(5,)).ends((2, 3)) == {5, 2, 3}
    assert SamplingParams(ignore_eos=True).ends((2,)) == frozenset()
    assert SamplingParams(ignore_eos=True, stop_token_ids=(2,)).ends((2, 3)) == {2}


def test_every_answer_of_several_has_a_seed_of_its_own() -> None:
    assert [choice_seed(seed, 0) for seed in (0, 7, 2**64 - 1)] == [0, 7, 2**64 - 1]
    seeds = {choice_seed(seed, index) for seed in range(50) for index in range(20)}
    assert len(seeds) == 1000
    assert max(seeds) < 2**64
    assert choice_seed(7, 1) == int("6a310c4613322771", 16)


def test_an_id_determines_a_seed_of_64_bits() -> None:
    assert seed_of("mine") == int("3fd30542fe3f61b1", 16) == seed_of("mine")
    seeds = {seed_of(str(number)) for number in range(1000)}
    assert len(seeds) == 1000
    assert max(seeds) < 2**64
    assert {seed.bit_length() for seed in seeds} >= {62, 63, 64}
    assert [SamplingParams(seed=seed).seed for seed in seeds] == list(seeds)


def test_parameters_compare_by_value_and_cannot_be_changed() -> None:
    params, again = (SamplingParams(stop=("a",), seed=2**64 - 1) for _ in range(2))
    assert params == again
    assert hash(params) == hash(again)
    with pytest.raises(AttributeError):
        params.seed = 1  # type: ignore[misc]
