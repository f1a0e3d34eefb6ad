"""Draws runs: latency over load, and the requests of the last run as a waterfall."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

from triptych.cli.bench.serve.outcome import Outcome
from triptych.cli.bench.serve.report import load_name
from triptych.cli.bench.serve.runs import ClosedLoad, PoissonLoad, Run, TraceLoad
from triptych.cli.bench.serve.summary import Latency
from triptych.core.errors import FailedPrecondition

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN: Final = 200  # requests of a waterfall; more would be thinner than a line
_SHARES: Final = (("p50", "-"), ("p95", "--"), ("p99", ":"))


def require_matplotlib() -> None:
    """Says at once, before anything is measured, that nothing can be drawn.

    Raises:
        FailedPrecondition: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise FailedPrecondition(
            "drawing needs matplotlib, which is not installed: pip install 'triptych[bench]'", field="plot"
        ) from None


def draw(runs: Sequence[Run], path: Path) -> None:
    """Writes a picture in the format of the file's name, such as .png or .svg.

    Raises:
        FailedPrecondition: matplotlib is missing, does not know the format, or the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.6))
    _latencies(figure.add_subplot(grid[0, 0]), "time to first token", runs, [r.summary.first_token for r in runs])
    _latencies(figure.add_subplot(grid[0, 1]), "time per output token", runs, [r.summary.per_token for r in runs])
    _waterfall(figure.add_subplot(grid[1, :]), runs[-1])
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise FailedPrecondition(f"{path} cannot be written: {error}", field="plot") from None


def _latencies(axes: "Axes", title: str, runs: Sequence[Run], found: Sequence[Latency | None]) -> None:
    places = [_place(run) for run in runs]
    for share, style in _SHARES:
        points = [
            (place, 1000 * getattr(latency, share))
            for place, latency in sorted(zip(places, found, strict=True), key=lambda pair: pair[0])
            if latency is not None
        ]
        axes.plot([x for x, _ in points], [y for _, y in points], style, marker="o", label=share)
    axes.set(title=title, xlabel=_unit(runs), ylabel="milliseconds")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()


def _waterfall(axes: "Axes", run: Run) -> None:
    """One line per request, from its due time: waiting until the first token, then answering."""
    shown = sorted(run.outcomes, key=lambda outcome: outcome.due)[:_SHOWN]
    for place, outcome in enumerate(shown):
        first = outcome.messages[0].at if outcome.messages else outcome.ended
        axes.barh(place, first - outcome.due, left=outcome.due, height=0.8, color="tab:orange")
        axes.barh(place, outcome.ended - first, left=first, height=0.8, color="tab:blue")
    failed = [(outcome.ended, place) for place, outcome in enumerate(shown) if not outcome.answered]
    if failed:
        axes.plot([at for at, _ in failed], [place for _, place in failed], "rx")
    axes.invert_yaxis()
    axes.set(title=f"{load_name(run.load)}: {_caption(shown, run)}", xlabel="seconds", ylabel="request")


def _caption(shown: Sequence[Outcome], run: Run) -> str:
    count = f"{len(shown)} requests" if len(shown) == len(run.outcomes) else f"the first {len(shown)} requests"
    return f"{count}, waiting (orange), answering (blue), failed (red)"


def _place(run: Run) -> float:
    """Where a run stands on the axis of load: requests a second, or clients."""
    match run.load:
        case PoissonLoad(rate):
            return rate
        case ClosedLoad(clients):
            return clients
        case TraceLoad(arrivals):
            last = arrivals[-1].due if arrivals else 0.0
            return len(arrivals) / last if last else 0.0
        case _:
            assert_never(run.load)


def _unit(runs: Sequence[Run]) -> str:
    return "clients" if isinstance(runs[0].load, ClosedLoad) else "requests a second"
