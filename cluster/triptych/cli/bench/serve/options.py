"""What the options of `triptych bench serve` ask for, checked before anything is sent."""

from dataclasses import dataclass
from pathlib import Path

from triptych.cli.bench.numbers import positive
from triptych.cli.bench.serve.lengths import parse_lengths
from triptych.cli.bench.serve.runs import ClosedLoad, Load, TraceLoad, poisson_loads
from triptych.cli.bench.serve.schedule import Bound, Mix, read_trace
from triptych.core.errors import InvalidArgument

DEFAULT_RATE = "1"
DEFAULT_REQUESTS = 100


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How requests arrive; at most one of the three is given, and none means `DEFAULT_RATE`.

    Attributes:
        rates: Requests a second, one run each.
        trace: A file of arrivals.
        clients: That ask one request after another.
    """

    rates: str | None
    trace: Path | None
    clients: int | None

    def loads(self, mix: Mix, bound: Bound, seed: int) -> tuple[Load, ...]:
        """The runs.

        Raises:
            InvalidArgument: more than one way of arriving is given, or one is out of bounds.
            NotFound: there is no such trace.
        """
        if sum(way is not None for way in (self.rates, self.trace, self.clients)) > 1:
            raise InvalidArgument("give one of --rate, --trace and --clients", field="rate")
        if self.trace is not None:
            return (TraceLoad(read_trace(self.trace, bound)),)
        if bound.requests is None and bound.seconds is None:
            bound = Bound(DEFAULT_REQUESTS, None)
        if self.clients is not None:
            return (ClosedLoad(self.clients, mix, bound, seed),)
        return poisson_loads(positive(self.rates or DEFAULT_RATE, "rate"), mix, bound, seed)


def read_mix(prompt: str, output: str, images: str) -> Mix:
    """The lengths of `--prompt`, `--output` and `--images`.

    Raises:
        InvalidArgument: one of them is not written as lengths are.
        NotFound: the file of one cannot be read.
    """
    return Mix(parse_lengths(prompt, "prompt"), parse_lengths(output, "output"), parse_lengths(images, "images"))
