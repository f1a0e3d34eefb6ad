"""`triptych experts replay`: what a recording would have come to under any settings."""

from pathlib import Path
from typing import Annotated

import typer


def replay(
    trace: Annotated[Path, typer.Argument(help="A recording of `triptych experts record`.")],
    *,
    budgets: Annotated[str, typer.Option(help="Percent of all experts, several in turn.")] = "10,25,50,75",
    policies: Annotated[str, typer.Option(help="Who keeps a slot.")] = "lfu-decay,lru,static-hot",
    predictors: Annotated[
        str, typer.Option(help="Who is read in advance: none, next-gate, route.")
    ] = "none,next-gate",
    shares: Annotated[str, typer.Option(help="How a budget is divided: uniform, shallow, measured.")] = "uniform",
    route: Annotated[Path | None, typer.Option(help="What `triptych experts train` has written.")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Experts of sixteen bits a weight where the recording has twelve.")
    ] = False,
    bandwidth: Annotated[float, typer.Option(min=1e-3, help="Of the disk, MB/s.")] = 1000.0,
    step: Annotated[float, typer.Option(min=1e-6, help="Milliseconds of a step with all experts in memory.")] = 10.0,
    json: Annotated[Path | None, typer.Option(help="Write one JSON object a line.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw hit ratio and speed over budget, such as hits.svg.")] = None,
) -> None:
    """Replay a recording: hits, reads and tokens a second of every choice, beside the best there could be."""
    from triptych.cli.bench.numbers import positive
    from triptych.cli.bench.serve.plot import require_matplotlib
    from triptych.cli.experts.hit_plot import draw
    from triptych.cli.experts.replaying import Choice, in_plain_form, replayed
    from triptych.cli.experts.replays import show, write
    from triptych.experts.traces import Device, Script, read_route_model, read_routes

    if plot:
        require_matplotlib()
    choice = Choice.of(policies, predictors, shares, route)
    percent = positive(budgets, "budgets")
    routes = read_routes(trace)
    script = Script.of(in_plain_form(routes) if plain else routes)
    trained = read_route_model(route) if route else None
    device = Device(bandwidth * 1e6, step / 1e3)
    lines = list(replayed(script, choice, percent, trained, device))
    show(script, lines, device)
    if json:
        write(json, lines)
    if plot:
        draw(script.routes.model.name, lines, plot)
