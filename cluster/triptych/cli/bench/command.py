"""`triptych bench`: the commands; each imports what it needs when it runs."""

import json
from typing import Annotated

import typer

from triptych.cli.bench.numbers import integers

bench = typer.Typer(help="Measure the engine, or a running cluster.", no_args_is_help=True)


@bench.command("engine")
def bench_engine(
    model: Annotated[str, typer.Argument(help="A folder, a .gguf file, a hub id or builtin:NAME.")],
    *,
    batches: Annotated[str, typer.Option(help="Batch sizes of decoding.")] = "1,8,32",
    prompt: Annotated[int, typer.Option(help="Tokens of each prompt that is decoded from.")] = 32,
    out: Annotated[int, typer.Option(help="Tokens of each answer.")] = 128,
    prefill: Annotated[int, typer.Option(help="Tokens of the prompt that is only read.")] = 1500,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the computation.")] = 2,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    quantization: Annotated[str, typer.Option(help="none, int8 or gguf (blocks of a .gguf as stored).")] = "none",
) -> None:
    """Measure decoding and prefill offline, beside what this machine allows; one JSON line per figure."""
    from triptych.cli.bench.engine.machine import Machine
    from triptych.cli.bench.engine.measure import EngineSettings, measure
    from triptych.cli.bench.engine.workloads import workloads
    from triptych.cli.progress import ProgressBars

    work = workloads(integers(batches, "batches"), prompt, out, prefill)
    settings = EngineSettings(model, dtype, quantization, threads)
    with Machine(threads) as machine:
        for line in measure(settings, work, machine, ProgressBars()):
            print(json.dumps(line), flush=True)
