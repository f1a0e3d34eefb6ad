"""`triptych bench`: the commands; each imports what it needs when it runs."""

import json as _json
from pathlib import Path
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
            print(_json.dumps(line), flush=True)


@bench.command("serve")
def bench_serve(
    *,
    address: Annotated[str | None, typer.Option(help="HOST:PORT; by default TRIPTYCH_ADDRESS.")] = None,
    model: Annotated[str, typer.Option(help="Name of the model; by default the one that is served.")] = "",
    rate: Annotated[str | None, typer.Option(help="Poisson arrivals a second, several in turn: 1,2,4.")] = None,
    trace: Annotated[Path | None, typer.Option(help="File of arrivals instead, one JSON object a line.")] = None,
    clients: Annotated[int | None, typer.Option(min=1, help="Clients that wait for each answer instead.")] = None,
    prompt: Annotated[str, typer.Option(help="Tokens: 128, 32-256, lognormal:128:0.6 or @FILE.")] = "128",
    output: Annotated[str, typer.Option(help="Tokens of the answers, written likewise.")] = "64",
    images: Annotated[
        str | None, typer.Option(help="Pictures of a request, written likewise; 1 with --image.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="A picture to send, repeatable; else noise.")] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Requests of a run; without --duration 100.")] = None,
    duration: Annotated[float | None, typer.Option(min=0.001, help="Seconds in which requests are sent.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds until the deadline of a request.")] = None,
    slo_ttft: Annotated[float | None, typer.Option(help="Milliseconds to a good request's first token.")] = None,
    slo_tpot: Annotated[float | None, typer.Option(help="Milliseconds per token of a good request.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same arrivals and lengths.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per run.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw latency over load, and the last run's requests.")] = None,
) -> None:
    """Load a running cluster and report what its clients see; a late answer never delays the next arrival."""
    import secrets

    from triptych.cli.bench.serve.options import Arrivals, read_mix
    from triptych.cli.bench.serve.plot import require_matplotlib
    from triptych.cli.bench.serve.schedule import Bound
    from triptych.cli.bench.serve.sender import read_pictures
    from triptych.cli.bench.serve.show import Output, Target, bench_cluster
    from triptych.cli.bench.serve.summary import Slo

    if plot is not None:
        require_matplotlib()
    seed = secrets.randbits(32) if seed is None else seed
    mix = read_mix(prompt, output, images or ("1" if image else "0"))
    loads = Arrivals(rate, trace, clients).loads(mix, Bound(requests, duration), seed)
    slo = Slo(*(None if limit is None else limit / 1000 for limit in (slo_ttft, slo_tpot)))
    pictures = read_pictures(image or ()) if image or images or trace else ()
    bench_cluster(Target(address, model, timeout), loads, pictures, slo, Output(json, plot), seed)


@bench.command("experts")
def bench_experts(
    *,
    model: Annotated[
        str, typer.Option(help="A mixture: a folder, a hub id, builtin:NAME, or synthetic:8GB of random weights.")
    ] = "builtin:smollm2-moe",
    budgets: Annotated[str, typer.Option(help="Percentages of all experts, or sizes such as 1.5GB.")] = "10,25,50,75",
    arms: Annotated[str | None, typer.Option(help="Of those compared; by default all that are about policy.")] = None,
    texts: Annotated[int, typer.Option(min=1, help="Prompts.")] = 4,
    out: Annotated[int, typer.Option(min=2, help="Tokens of each answer.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Prompts that are completed together.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each arm, of which the median counts.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the computation.")] = 2,
    dtype: Annotated[str, typer.Option(help="Of the computation: auto, float32 or bfloat16.")] = "auto",
    expert_parallel: Annotated[int, typer.Option(min=1, help="Ranks that divide the experts.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write JSON lines into this file.")] = None,
) -> None:
    """Measure what it costs to serve a mixture from less memory than its experts take: every policy and predictor."""
    from rich.console import Console

    from triptych.cli.bench.experts.arms import DEFAULT_ARMS, parse_arms
    from triptych.cli.bench.experts.preparing import SYNTHETIC, Wanted
    from triptych.cli.bench.experts.run import run
    from triptych.cli.bench.experts.show import json_lines, tables
    from triptych.cli.bench.experts.targets import targets
    from triptych.cli.progress import ProgressBars

    wanted = Wanted(model, texts, out, batch, threads, dtype, expert_parallel)
    found = run(wanted, parse_arms(arms or DEFAULT_ARMS, budgets), rounds, ProgressBars())
    reached = targets(found.arms, synthetic=model.startswith(SYNTHETIC))
    if json is not None:
        json.write_text("".join(f"{line}\n" for line in json_lines(found, reached)), encoding="utf-8")
    Console(width=max(Console().width, 150)).print(tables(found, reached))
