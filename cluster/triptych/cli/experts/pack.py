"""`triptych experts pack`: the file that experts are read from while a model is served that does not fit."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, slots=True)
class Packed:
    """What is said of a pack.

    Attributes:
        path: Where it is.
        layers: Those of the model that have experts.
        experts: Of all layers together.
        bytes: Of all experts.
        file_bytes: Of the file.
        built: Whether it was not there before.
        mended: Experts that were damaged and have been written again; None where they were not read.
        seconds: For making or reading it.
    """

    path: str
    layers: int
    experts: int
    bytes: int
    file_bytes: int
    built: bool
    mended: int | None
    seconds: float

    @property
    def rate(self) -> float:
        """MB/s."""
        return self.bytes / 1e6 / self.seconds if self.seconds else 0.0


def pack(
    model: Annotated[str, typer.Argument(help="A folder, a .gguf file, a hub id or builtin:NAME.")],
    *,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    quantization: Annotated[str, typer.Option(help="none, int8 or gguf (blocks of a .gguf as stored).")] = "none",
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Not in 12 bits a weight: for GPUs, and experts.compact: false."),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all of it, and write again what is not as it was written.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Pack a mixture's experts into the file that they are read from when they do not all fit into memory."""
    from triptych.cli.experts.packing import packed_by
    from triptych.cli.progress import ProgressBars

    packed = packed_by(model, dtype, quantization, ProgressBars(), compact=not plain, verify=verify)
    if as_json:
        print(json.dumps({**asdict(packed), "mb_per_s": packed.rate}, indent=2))
        return
    print(packed.path)
    done = "packed" if packed.built else "verified" if verify else "there already"
    speed = f" in {packed.seconds:.1f} s, {packed.rate:,.0f} MB/s" if packed.built or verify else ""
    print(f"{packed.experts:,} experts of {packed.layers} layers, {packed.bytes / 1e6:,.0f} MB: {done}{speed}")
    if packed.mended:
        print(f"{packed.mended} were damaged, and have been written again")
