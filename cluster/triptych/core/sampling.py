"""How the next token is chosen: the one type that client, router and engine share."""

import hashlib
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import TypeVar

from triptych.core.errors import InvalidArgument

T = TypeVar("T")

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_LENGTH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling parameters of one request; the order of application is the order of the fields below `max_tokens`.

    Attributes:
        max_tokens: Upper bound of generated tokens; None means what the context has room for.
        stop: Texts before the first of which the answer ends.
        stop_token_ids: Token ids at which the answer ends.
        ignore_eos: Go on past the model's end-of-sequence tokens.
        repetition_penalty: Divides positive and multiplies negative logits of seen tokens (arXiv:1909.05858).
        presence_penalty: Subtracted from logits of generated tokens, in [-2, 2].
        frequency_penalty: Subtracted once per occurrence among the generated tokens, in [-2, 2].
        temperature: Divides the logits; 0 is greedy.
        top_k: Keeps the k likeliest tokens; 0 keeps all.
        top_p: Keeps the smallest set whose probability reaches this, in (0, 1].
        min_p: Drops tokens less likely than this share of the likeliest, in [0, 1].
        seed: Same seed, same tokens; None takes one that the request's id determines (offline: draws one).
        logprobs: Alternatives to report per token (0 reports the chosen one only); None reports nothing.

    Raises:
        InvalidArgument: names the field, its limits and the value.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Refuses values that no sampler can honour."""
        object.__setattr__(self, "stop", _entries("stop", (self.stop,) if isinstance(self.stop, str) else self.stop))
        object.__setattr__(self, "stop_token_ids", _entries("stop_token_ids", self.stop_token_ids))
        _within("temperature", self.temperature, 0.0, 100.0)
        _whole("top_k", self.top_k, 0, 2**31 - 1)
        _within("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("repetition_penalty", self.repetition_penalty, 0.0, 100.0, open_low=True)
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 1, 2**31 - 1)
        if self.seed is not None:
            _whole("seed", self.seed, 0, 2**64 - 1)
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        _check_stops(self.stop, self.stop_token_ids)
        if not isinstance(self.ignore_eos, bool):
            raise InvalidArgument(
                f"sampling.ignore_eos must be True or False, got {_shown(self.ignore_eos)}",
                field="sampling.ignore_eos",
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0

    @property
    def penalised(self) -> bool:
        """Whether logits depend on the tokens seen so far."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def stops_at(self, token_id: int, eos_token_ids: Container[int]) -> bool:
        """Whether an answer ends with this token; `eos_token_ids` are the model's."""
        return token_id in self.stop_token_ids or (not self.ignore_eos and token_id in eos_token_ids)


def seed_of(request_id: str) -> int:
    """The seed of a request that was given none: 64 bits of the SHA-256 of its id.

    A client that sends its request to another router gets the same answer there, because its id is the same.
    """
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8])


def _within(field: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(f"sampling.{field} must be a number, got {_shown(value)}", field=f"sampling.{field}")
    if not low <= value <= high or (open_low and value == low):  # NaN compares as false
        bracket = "(" if open_low else "["
        raise InvalidArgument(
            f"sampling.{field} must be in {bracket}{low:g}, {high:g}], got {_shown(value)}",
            field=f"sampling.{field}",
        )


def _whole(field: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidArgument(
            f"sampling.{field} must be a whole number in [{low}, {high}], got {_shown(value)}",
            field=f"sampling.{field}",
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
