"""`triptych models list`: the families that are served."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from triptych.models.recipes.catalogue import Family

_FORMATS = """
Safetensors in float32, float16 and bfloat16, one file or sharded; GPTQ, AWQ, compressed-tensors, fp8 and MXFP4.
GGUF of the families marked; any of them also as 8-bit weights: triptych serve --quantization int8.
What one model would take on this machine: triptych models check MODEL
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A family, and whether GGUF files of it are read."""

    family: "Family"
    gguf: bool


def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the names that config.json has.")] = False,
) -> None:
    """List the families of models that are served, and what each of them takes and gives."""
    from triptych.models.gguf_families import FAMILIES as GGUF_FAMILIES
    from triptych.models.recipes.catalogue import FAMILIES

    gguf = {family.architecture for family in GGUF_FAMILIES}
    rows = [Row(family, family.architecture in gguf) for family in FAMILIES]
    if as_json:
        print(json.dumps([asdict(row.family) | {"gguf": row.gguf} for row in rows], indent=2))
        return
    console = Console()
    console.print(_table(rows))
    console.print(_FORMATS.rstrip(), highlight=False, soft_wrap=True)


def _table(rows: Iterable[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("family", "takes", "gives", "gguf", "such as"):
        table.add_column(name, no_wrap=name != "such as")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> Iterator[str]:
    family = row.family
    yield from (family.name, ", ".join(family.takes), family.gives, "yes" if row.gguf else "", family.models)
