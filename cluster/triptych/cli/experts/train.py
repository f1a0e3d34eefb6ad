"""`triptych experts train`: the predictor `route`."""

import json
from pathlib import Path
from typing import Annotated

import typer


def train(
    traces: Annotated[list[Path], typer.Argument(help="Recordings of one model, of `triptych experts record`.")],
    *,
    out: Annotated[Path, typer.Option(help="File for `experts.route`.")],
    widen: Annotated[
        int, typer.Option(min=0, help="Experts beyond the router's own number: where recall is taken.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Learn from recordings which experts of all layers a token will go through, by the token alone."""
    from triptych.experts.traces import read_routes, write_route_model
    from triptych.experts.traces import train as fit

    trained = fit([read_routes(trace) for trace in traces], widen)
    write_route_model(out, trained.model)
    shown = {"trained": trained.recall, "as before": trained.as_before, "most frequent": trained.most_frequent}
    if as_json:
        recall = {name.replace(" ", "_"): [round(share, 4) for share in layers] for name, layers in shown.items()}
        print(json.dumps({"out": str(out), "rows": trained.rows, "top": trained.top, "recall": recall}, indent=2))
        return
    _show(shown, trained.rows, trained.top)
    print(out)


def _show(shown: dict[str, tuple[float, ...]], rows: int, top: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("layer", *shown):
        table.add_column(name, justify="right")
    for layer, shares in enumerate(zip(*shown.values(), strict=True)):
        table.add_row(str(layer), *(f"{share:.3f}" for share in shares))
    table.add_row("mean", *(f"{sum(layers) / len(layers):.3f}" for layers in shown.values()), style="bold")
    console = Console(highlight=False)
    console.print(f"share of the experts of {rows:,} tokens of other texts that are among the {top} likeliest")
    console.print(table)
