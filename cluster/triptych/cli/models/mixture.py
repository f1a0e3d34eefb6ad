"""What `triptych models check` says of the experts of a mixture: their size, and how fast some of them serve."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, assert_never

from triptych.core.sizes import show_bytes

if TYPE_CHECKING:
    from triptych.experts.fit import Forecast  # it needs torch


@dataclass(frozen=True, slots=True)
class MixtureReport:
    """What is said of experts.

    Attributes:
        experts: Of all layers.
        expert_bytes: Of the largest, in a slot.
        bytes: Of all, where all are in memory.
        token_bytes: Of those that a token uses.
        least_bytes: The smallest budget.
        auto: What `experts.budget: auto` comes to here: everything, part or nothing.
        auto_bytes: That it gives each worker; all of them, or none, where it is not a part.
        disk_bytes_per_second: Of reads of one expert, by as many threads as a worker has for it.
        counted: Whether the hit ratios are of what earlier runs needed, or of another mixture's routing.
        everything: With all experts in memory.
        forecasts: With less, by budget.
    """

    experts: int
    expert_bytes: int
    bytes: int
    token_bytes: int
    least_bytes: int
    auto: Literal["everything", "part", "nothing"]
    auto_bytes: int
    disk_bytes_per_second: float
    counted: bool
    everything: "Forecast"
    forecasts: "tuple[Forecast, ...]"


def mixture_lines(report: MixtureReport) -> Iterator[tuple[str, str]]:
    """For people."""
    share = f"{report.token_bytes / report.bytes:.0%} of them, {show_bytes(report.token_bytes)}, for a token"
    yield "experts", f"{report.experts:,} of {show_bytes(report.expert_bytes)}: {show_bytes(report.bytes)}; {share}"
    match report.auto:
        case "everything":
            text = "all of them fit, and none is read again"
        case "part":
            text = f"{show_bytes(report.auto_bytes)} of them for each worker, the others from disk when needed"
        case "nothing":
            text = f"not even the smallest budget fits, which is {show_bytes(report.least_bytes)} for each worker"
        case _:
            assert_never(report.auto)
    yield "budget auto", text
    rate = report.disk_bytes_per_second / 1e6
    yield "disk", f"{rate:,.0f} MB/s in reads of {show_bytes(report.expert_bytes)} (measured now)"
    yield "decode with", f"all experts: at most {report.everything.tokens_per_second:,.0f} tokens/s"
    for one in reversed(report.forecasts):
        budget = f"{one.bytes / report.bytes:.0%} ({show_bytes(one.bytes)})"
        yield "", f"{budget}: {one.hit_ratio:.0%} there, about {one.tokens_per_second:,.0f} tokens/s ({one.bound})"
    basis = "what earlier runs here needed" if report.counted else "the routing of builtin:smollm2-moe"
    yield "", f"shares that are there are expected from {basis}"
