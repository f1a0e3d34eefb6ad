"""`triptych kernels`: the C++ kernels of this machine."""

import json
from dataclasses import asdict
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from triptych.core.errors import FailedPrecondition

kernels = typer.Typer(help="Build and list the C++ kernels for this machine's CPU.", no_args_is_help=True)

IsaName = Literal["best", "all", "avx512", "avx2", "portable"]


@kernels.command("build")
def build(
    isa: Annotated[
        IsaName, typer.Option(help="Instruction set: the best that this CPU runs, one by name, or all (for images).")
    ] = "best",
) -> None:
    """Compile every kernel now instead of at first use."""
    from triptych.kernels.native import building
    from triptych.kernels.native import isa as isas
    from triptych.kernels.native.compile import NotAvailable, cache_directory

    sets = {"best": isas.supported()[:1], "all": isas.ISAS}
    try:
        units = building.units(sets[isa] if isa in sets else (isas.isa(isa),))
        fresh = len(building.missing(units))
        building.build(units, lambda unit: print(f"{unit.isa.name:9} {unit.source}"))
        print(f"{len(units)} built, {fresh} of them now, in {cache_directory()}")
    except NotAvailable as error:
        raise FailedPrecondition(f"the kernels cannot be built: {error}") from error


@kernels.command("list")
def list_ops(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show each op with the backend that computes it on this CPU, and why."""
    from triptych.kernels import native
    from triptych.kernels.native.inventory import inventory

    statuses = inventory(native.install())
    if as_json:
        print(json.dumps([asdict(status) for status in statuses], indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("op", "backend", "why"):
        table.add_column(name, overflow="fold")
    for status in statuses:
        table.add_row(status.op, status.backend, status.reason)
    Console().print(table)
