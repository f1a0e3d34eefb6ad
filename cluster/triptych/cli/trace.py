"""`triptych trace`: what workers do, step by step, as a file for trace viewers."""

import json
from pathlib import Path
from typing import Annotated

import typer


def trace(
    workers: Annotated[list[str] | None, typer.Argument(help="Such as decode-0; by default all.")] = None,
    *,
    steps: Annotated[int, typer.Option(help="How many each of them records.")] = 20,
    within: Annotated[float, typer.Option(help="Seconds after which one that has less to do ends too.")] = 10.0,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("trace.json"),
    address: Annotated[str | None, typer.Option(help="HOST:PORT; by default TRIPTYCH_ADDRESS.")] = None,
) -> None:
    """Record what workers do while they serve; open the file in chrome://tracing or ui.perfetto.dev."""
    from triptych.client import Client
    from triptych.core.trace import chrome_trace

    with Client(address, timeout=10.0) as client:
        traces = client.trace(*(workers or ()), steps=steps, within=within)
    output.write_text(json.dumps(chrome_trace({one.worker_id: one.spans for one in traces})), encoding="utf-8")
    for one in traces:
        print(f"{one.worker_id}: {one.steps} of {steps} steps, {len(one.spans)} spans")
    print(f"written to {output}")
