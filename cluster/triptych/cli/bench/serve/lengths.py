"""How long prompts and answers are: one number, a distribution, or the lengths of a file."""

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from triptych.core.errors import InvalidArgument, NotFound

FORMS: Final = "128, 32-256 (uniform), lognormal:128:0.6 (median and sigma), or @FILE with one number a line"


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    value: int


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every whole number from `least` to `most` is as likely."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class LogNormal:
    """The logarithm is normal: half lie below `median`, and a few far above it."""

    median: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Listed:
    """One of these, each as likely."""

    values: tuple[int, ...]


Lengths = Fixed | Uniform | LogNormal | Listed


def draw(lengths: Lengths, source: random.Random, *, least: int = 1) -> int:
    """One length, at least `least`."""
    match lengths:
        case Fixed(value):
            drawn = value
        case Uniform(low, high):
            drawn = source.randint(low, high)
        case LogNormal(median, sigma):
            drawn = round(source.lognormvariate(math.log(median), sigma))
        case Listed(values):
            drawn = source.choice(values)
        case _:
            assert_never(lengths)
    return max(least, drawn)


def parse_lengths(text: str, option: str) -> Lengths:
    """Reads lengths as users write them: `FORMS`.

    Raises:
        InvalidArgument: the text is none of the forms, or a number is out of bounds.
        NotFound: there is no such file.
    """
    try:
        return _parse(text)
    except ValueError:
        raise InvalidArgument(f"--{option} must be {FORMS}; got {text!r:.80}", field=option) from None
    except OSError as error:
        raise NotFound(f"--{option}: {text[1:]} cannot be read: {error.strerror}", field=option) from None


def _parse(text: str) -> Lengths:
    if text.startswith("@"):
        return Listed(_counts(Path(text[1:]).expanduser().read_text(encoding="utf-8").split()))
    if text.startswith("lognormal:"):
        median, sigma = (float(part) for part in text.split(":")[1:])
        if not (1 <= median < math.inf and 0 <= sigma < math.inf):
            raise ValueError
        return LogNormal(median, sigma)
    values = _counts(text.split("-", 1))
    if len(values) == 1:
        return Fixed(values[0])
    if values[0] > values[1]:
        raise ValueError
    return Uniform(*values)


def _counts(words: list[str]) -> tuple[int, ...]:
    values = tuple(int(word) for word in words)
    if not values or min(values) < 0:
        raise ValueError
    return values
