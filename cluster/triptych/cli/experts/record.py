"""`triptych experts record`: which experts a model asks for."""

from pathlib import Path
from typing import Annotated

import typer


def record(
    model: Annotated[str, typer.Argument(help="A folder, a .gguf file, a hub id or builtin:NAME.")],
    *,
    out: Annotated[Path, typer.Option(help="File that the recording goes to.")],
    prompts: Annotated[
        Path | None, typer.Option(help="What is completed, one prompt a line; else texts of many kinds.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Answers that are computed together.")] = 1,
    budget: Annotated[
        str | None, typer.Option(help="Memory of experts, such as 50% or 1.5GiB, where not all of them fit.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    quantization: Annotated[str, typer.Option(help="none, int8 or gguf (blocks of a .gguf as stored).")] = "none",
) -> None:
    """Complete prompts, and write down which experts every token goes through."""
    from triptych.cli.experts.recording import Recorded, read_prompts, record_to

    work = Recorded(model, out, read_prompts(prompts), tokens, batch)
    print(record_to(work, dtype, quantization, budget))
