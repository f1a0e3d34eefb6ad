"""When requests arrive and what each asks for, decided before the first one is sent."""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

from triptych.cli.bench.serve.lengths import Lengths, draw
from triptych.core.errors import InvalidArgument, NotFound

LEAST_PROMPT = 8


@dataclass(frozen=True, slots=True)
class Work:
    """What one request asks for.

    Attributes:
        number: Its own among all requests of a command; makes its prompt differ from every other.
        prompt_tokens: Of its text, about.
        output_tokens: Of its answer.
        images: Pictures beside the text.
    """

    number: int
    prompt_tokens: int
    output_tokens: int
    images: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request and when it is sent, in seconds after the beginning."""

    due: float
    work: Work


@dataclass(frozen=True, slots=True)
class Mix:
    """The lengths that requests are drawn from."""

    prompt: Lengths
    output: Lengths
    images: Lengths


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a run ends: after so many requests or so many seconds of arrivals, whichever is first."""

    requests: int | None
    seconds: float | None


def works(mix: Mix, source: random.Random) -> Iterator[Work]:
    """Requests without end."""
    for number in count():
        yield Work(
            number,
            draw(mix.prompt, source, least=LEAST_PROMPT),
            draw(mix.output, source),
            draw(mix.images, source, least=0),
        )


def poisson(rate: float, source: random.Random) -> Iterator[float]:
    """Arrival times without end: exponential gaps of mean 1 / `rate` seconds, the first one from zero."""
    due = 0.0
    while True:
        due += source.expovariate(rate)
        yield due


def schedule(rate: float, requests: Iterator[Work], bound: Bound, source: random.Random) -> tuple[Arrival, ...]:
    """Poisson arrivals up to the bound.

    Args:
        rate: Requests per second.
        requests: What they ask for; as many are taken as arrive.
        bound: Has at least one of its two limits.
        source: Of the gaps.
    """
    limit = math.inf if bound.seconds is None else bound.seconds
    times = takewhile(lambda due: due < limit, islice(poisson(rate, source), bound.requests))
    return tuple(Arrival(due, next(requests)) for due in times)


def read_trace(path: Path, bound: Bound) -> tuple[Arrival, ...]:
    """Arrivals from a file of JSON lines, such as {"arrival": 0.25, "prompt_tokens": 300, "output_tokens": 80}.

    `arrival` is in seconds and never falls; `images` may be given too. Times count from the first line's.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: a line is not such an object; names it.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise NotFound(f"the trace {path} cannot be read: {error.strerror}", field="trace") from None
    found: list[Arrival] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_arrival(f"{path}, line {number}", line, found))
    if not found:
        raise InvalidArgument(f"the trace {path} holds no request", field="trace")
    begin = found[0].due
    moved = (Arrival(arrival.due - begin, arrival.work) for arrival in islice(found, bound.requests))
    return tuple(arrival for arrival in moved if bound.seconds is None or arrival.due < bound.seconds)


def _arrival(place: str, line: str, before: list[Arrival]) -> Arrival:
    try:
        entry: Any = json.loads(line)
        due, prompt, output = float(entry["arrival"]), int(entry["prompt_tokens"]), int(entry["output_tokens"])
        images = int(entry.get("images", 0))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InvalidArgument(
            f"{place} must be an object with arrival, prompt_tokens and output_tokens, got {line!r:.80}",
            field="trace",
        ) from None
    if prompt < 1 or output < 1 or images < 0:
        raise InvalidArgument(f"{place}: prompt_tokens and output_tokens must be at least 1", field="trace")
    if before and due < before[-1].due:
        raise InvalidArgument(f"{place} arrives at {due:g} s, before the line above it", field="trace")
    return Arrival(due, Work(len(before), max(LEAST_PROMPT, prompt), output, images))
