"""`triptych simulate`: many runs of a scenario, or one of them line by line."""

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from triptych.simulator.invariants import ALWAYS, AS_IT_HAPPENS, FINALLY
from triptych.simulator.outcome import Totals, simulate, totals
from triptych.simulator.reading import load_scenario
from triptych.simulator.scenario import Scenario
from triptych.simulator.world import World


def simulate_command(
    scenario: Annotated[str, typer.Argument(help="A YAML file, or the name of a scenario such as `everything`.")],
    seeds: Annotated[int, typer.Option(min=1, help="Runs.")] = 100,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first run; each further one has the next.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="Run this seed alone.")] = None,
    transcript: Annotated[bool, typer.Option(help="Print what happens, line by line; needs --seed.")] = False,
) -> None:
    """Run a cluster that exists in this process only, with faults drawn from seeds, and check its invariants.

    Prints the seed of the first violation and exits with 1 if there is one.
    """
    spec = load_scenario(scenario)
    if transcript and seed is None:
        raise typer.BadParameter("--transcript needs --seed: it prints one run", param_hint="--transcript")
    if seed is not None:
        first_seed, seeds = seed, 1
    started = time.perf_counter()
    sums = _transcribed(spec, first_seed) if transcript else _many(spec, range(first_seed, first_seed + seeds))
    show(sums, time.perf_counter() - started)
    if sums.first:
        number, invariant, detail = sums.first
        Console(soft_wrap=True).print(
            f"seed {number} violates '{invariant}': {detail}", markup=False, highlight=False
        )
        raise typer.Exit(1)


def show(sums: Totals, elapsed: float) -> None:
    """Prints the invariants and the totals."""
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (("invariant", "left"), ("looks", "right"), ("violated", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name in (*AS_IT_HAPPENS, *(invariant.name for invariant in (*ALWAYS, *FINALLY))):
        violated = sums.violations[name]
        table.add_row(name, f"{sums.checks[name]:,}", f"[red]{violated}[/]" if violated else "0")
    console.print(table)
    console.print()
    for title, text in _lines(sums, elapsed):
        console.print(f"{title:10} {text}", highlight=False, markup=False)


def _lines(sums: Totals, elapsed: float) -> list[tuple[str, str]]:
    waste = sums.replayed_tokens / sums.computed_tokens if sums.computed_tokens else 0.0
    return [
        ("runs", f"{sums.runs:,} of {sums.seconds / sums.runs:.0f} virtual seconds on average"),
        ("events", f"{sums.events:,} in {elapsed:.1f} s, {sums.events / elapsed:,.0f} per second"),
        ("requests", ", ".join(f"{count:,} {name}" for name, count in sums.requests.most_common())),
        ("healed", f"{sums.replays:,} attempts begun anew, {sums.resumes:,} clients came back"),
        (
            "wasted",
            f"{sums.replayed_tokens:,} of {sums.computed_tokens:,} computed tokens were begun anew ({waste:.1%}); "
            f"{sums.needed_tokens:,} were needed",
        ),
        ("silence", f"{sums.longest_silence:.1f} s at most before a client heard something"),
        ("faults", ", ".join(f"{count:,} {name}" for name, count in sorted(sums.injected.items())) or "none"),
    ]


def _many(spec: Scenario, seeds: range) -> Totals:
    sums = Totals()
    for seed in track(seeds, "simulating", console=Console(stderr=True), transient=True):
        sums.add(simulate(spec, seed))
    return sums


def _transcribed(spec: Scenario, seed: int) -> Totals:
    world = World(spec, seed, transcript=True)
    violation = world.run()
    for line in world.transcript.lines:
        print(line)
    print()
    return totals(world, seed, violation)
