"""Replays as a table and as a file."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from triptych.cli.experts.replaying import Line
from triptych.core.errors import FailedPrecondition
from triptych.experts.traces import Device, Script


def show(script: Script, lines: Sequence[Line], device: Device) -> None:
    """Prints a table."""
    model = script.routes.model
    names = max(len(line.arm) for line in lines)
    console = Console(highlight=False)
    console.width = max(console.width, names + 78)
    console.print(
        f"{model.name}: {len(script.routes):,} steps, {script.tokens:,} tokens decoded; "
        f"{model.layers} layers of {model.experts} experts of {model.blob / 1e3:,.0f} kB, {model.top_k} a token; "
        f"a disk of {device.bandwidth / 1e6:,.0f} MB/s, {device.step * 1e3:g} ms a step; "
        "reads, waste in MB and stall in ms are of a token; off: with reading in advance given up",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("budget", justify="right")
    table.add_column("arm", no_wrap=True)
    for name in ("hit", "kept", "recall", "precision", "reads", "waste", "stall", "tok/s", "hit off", "tok/s off"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for line in lines:
        if before not in (None, line.budget):
            table.add_section()
        table.add_row("" if line.budget == before else f"{line.budget:g}%", *_figures(line))
        before = line.budget
    console.print(table)


def write(path: Path, lines: Sequence[Line]) -> None:
    """Writes one JSON object a line.

    Raises:
        FailedPrecondition: the file cannot be written.
    """
    try:
        path.write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be written: {error.strerror}", field="json") from None


def _figures(line: Line) -> tuple[str, ...]:
    return (
        line.arm,
        f"{line.hit:.3f}",
        f"{line.kept:.3f}",
        _share(line.recall),
        _share(line.precision),
        f"{line.reads:.1f}",
        f"{line.wasted / 1e6:.2f}",
        "–" if line.stall is None else f"{line.stall:.2f}",
        f"{line.tok_s:.1f}",
        _share(line.hit_off),
        "–" if line.tok_s_off is None else f"{line.tok_s_off:.1f}",
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
