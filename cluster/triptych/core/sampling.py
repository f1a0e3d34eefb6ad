"""How the next token is chosen: the one type that client, router and engine share."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from triptych.core.errors import InvalidArgument

T = TypeVar("T")

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_CHOICES = 128

_OF_THE_MODEL: Final = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling parameters of one request; they apply in the order of the fields from `repetition_penalty` on.

    None leaves a parameter to the model: what its generation_config.json says, or else the neutral value.

    Attributes:
        max_tokens: Upper bound of generated tokens; where the model names none either, what the context has room for.
        min_tokens: Before so many tokens the answer does not end: end-of-sequence tokens and stop ids cannot be
            chosen, and a stop text must begin behind them.
        stop: Texts before the first of which the answer ends.
        stop_token_ids: Token ids at which the answer ends.
        ignore_eos: Go on past the model's end-of-sequence tokens.
        repetition_penalty: Divides positive and multiplies negative logits of seen tokens (arXiv:1909.05858); 1 is
            neutral.
        presence_penalty: Subtracted from logits of generated tokens, in [-2, 2].
        frequency_penalty: Subtracted once per occurrence among the generated tokens, in [-2, 2].
        temperature: Divides the logits; 0 is greedy, 1 neutral.
        top_k: Keeps the k likeliest tokens; 0 keeps all.
        top_p: Keeps the smallest set whose probability reaches this, in (0, 1].
        min_p: Drops tokens less likely than this share of the likeliest, in [0, 1].
        seed: Same seed, same tokens; None takes one that the request's id determines (offline: draws one).
        logprobs: Alternatives to report per token (0 reports the chosen one only); None reports nothing.
        skip_special_tokens: Leave special tokens out of the text; the one that ends the answer is left out always.
        n: Answers to the same prompt, each with random numbers of its own (`choice_seed`).

    Raises:
        InvalidArgument: names the field, its limits and the value.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    logprobs: int | None = None
    skip_special_tokens: bool = True
    n: int = 1

    def __post_init__(self) -> None:
        """Refuses values that no sampler can honour."""
        object.__setattr__(self, "stop", _entries("stop", (self.stop,) if isinstance(self.stop, str) else self.stop))
        object.__setattr__(self, "stop_token_ids", _entries("stop_token_ids", self.stop_token_ids))
        _within("temperature", self.temperature, 0.0, 100.0)
        _whole("top_k", self.top_k, 0, 2**31 - 1, optional=True)
        _whole("min_tokens", self.min_tokens, 0, 2**31 - 1)
        _whole("n", self.n, 1, MAX_CHOICES)
        _within("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("repetition_penalty", self.repetition_penalty, 0.0, 100.0, open_low=True)
        _whole("max_tokens", self.max_tokens, 1, 2**31 - 1, optional=True)
        _whole("seed", self.seed, 0, 2**64 - 1, optional=True)
        _whole("logprobs", self.logprobs, 0, MAX_LOGPROBS, optional=True)
        for field in ("presence_penalty", "frequency_penalty"):
            _within(field, getattr(self, field), -2.0, 2.0, optional=False)
        _check_stops(self.stop, self.stop_token_ids)
        for field in ("ignore_eos", "skip_special_tokens"):
            _flag(field, getattr(self, field))

    def over(self, defaults: "SamplingParams") -> "SamplingParams":
        """These parameters, and for those that are left to the model what `defaults` says; but for `max_tokens`."""
        unset = {name: getattr(defaults, name) for name in _OF_THE_MODEL if getattr(self, name) is None}
        return replace(self, **unset)

    def ends(self, eos_token_ids: Iterable[int]) -> frozenset[int]:
        """The tokens that end an answer; `eos_token_ids` are the model's."""
        return frozenset(self.stop_token_ids) | (frozenset() if self.ignore_eos else frozenset(eos_token_ids))


def seed_of(request_id: str) -> int:
    """The seed of a request that was given none: 64 bits of the SHA-256 of its id.

    A client that sends its request to another router gets the same answer there, because its id is the same.
    """
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8])


def choice_seed(seed: int, index: int) -> int:
    """The seed of answer `index` to a request with that seed: its own for 0, 64 bits of a SHA-256 for the others."""
    if not index:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:8])


def _within(
    field: str, value: float | None, low: float, high: float, *, open_low: bool = False, optional: bool = True
) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(f"sampling.{field} must be a number, got {_shown(value)}", field=f"sampling.{field}")
    if not low <= value <= high or (open_low and value == low):  # NaN compares as false
        bracket = "(" if open_low else "["
        raise InvalidArgument(
            f"sampling.{field} must be in {bracket}{low:g}, {high:g}], got {_shown(value)}",
            field=f"sampling.{field}",
        )


def _whole(field: str, value: int | None, low: int, high: int, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidArgument(
            f"sampling.{field} must be a whole number in [{low}, {high}], got {_shown(value)}",
            field=f"sampling.{field}",
        )


def _flag(field: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidArgument(
            f"sampling.{field} must be True or False, got {_shown(value)}", field=f"sampling.{field}"
        )


def _entries(field: str, values: Iterable[T]) -> tuple[T, ...]:
    if not isinstance(values, Iterable):
        raise InvalidArgument(f"sampling.{field} must be a list, got {_shown(values)}", field=f"sampling.{field}")
    entries = tuple(values)
    if len(entries) > MAX_STOPS:
        raise InvalidArgument(
            f"sampling.{field} may hold at most {MAX_STOPS} entries, got {len(entries)}", field=f"sampling.{field}"
        )
    return entries


def _check_stops(stop: tuple[str, ...], stop_token_ids: tuple[int, ...]) -> None:
    for text in stop:
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_STOP_LENGTH:
            raise InvalidArgument(
                f"each sampling.stop must be a text of 1 to {MAX_STOP_LENGTH} characters, got {_shown(text)}",
                field="sampling.stop",
            )
    for token_id in stop_token_ids:
        _whole("stop_token_ids", token_id, 0, 2**31 - 1)


def _shown(value: object) -> str:
    """The value, short enough for a message; Python refuses to write out an int of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return f"{value!r:.60}"
