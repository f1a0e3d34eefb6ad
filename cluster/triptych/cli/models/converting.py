"""`triptych models convert`: a model in the other format."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[str, typer.Argument(help="A folder, a .gguf file, a hub id or builtin:NAME.")],
    target: Annotated[Path, typer.Argument(help="What to write: a file if it ends with .gguf, else a folder.")],
    *,
    kind: Annotated[
        str,
        typer.Option("--as", help="bf16, f16 or f32; into a GGUF file also q8_0, q5_1, q5_0, q4_1 and q4_0."),
    ] = "bf16",
) -> None:
    """Write a GGUF file as a Hugging Face folder, or a folder as a GGUF file."""
    from triptych.cli.progress import ProgressBars
    from triptych.models.convert import convert as convert_model
    from triptych.models.resolve import resolve

    progress = ProgressBars()
    convert_model(resolve(source, progress=progress), target, kind.upper(), progress=progress)
    print(target)
