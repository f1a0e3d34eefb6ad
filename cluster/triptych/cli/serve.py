"""`triptych serve`: a cluster that stays up."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from triptych.config.spec import ClusterSpec

DEFAULT_MODEL = "builtin:smollm2"


def serve(
    model: Annotated[
        str | None,
        typer.Argument(help=f"A folder, a .gguf file, a hub id or builtin:NAME; by default {DEFAULT_MODEL}."),
    ] = None,
    *,
    layout: Annotated[str | None, typer.Option(help="Workers of each stage, such as 1E1P1D, or auto.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the cluster's settings.")] = None,
    grpc: Annotated[str | None, typer.Option(help="HOST:PORT to listen on.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="none, int8, or gguf: the blocks of a .gguf file as stored.")
    ] = None,
    tensor_parallel: Annotated[
        int | None, typer.Option(help="Ranks of each prefill and decode worker that divide every matrix.")
    ] = None,
    expert_parallel: Annotated[int | None, typer.Option(help="Ranks that divide the experts of each layer.")] = None,
    attention_parallel: Annotated[
        str | None, typer.Option(help="data or tensor: what attention makes of the ranks that divide the experts.")
    ] = None,
    expert_budget: Annotated[
        str | None,
        typer.Option(help="Memory of each rank for experts, such as 1.5GiB, 50% or auto; by default all are in it."),
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to join; without it one is started.")] = None,
) -> None:
    """Serve a model until Ctrl-C; options override the file."""
    import asyncio

    from triptych.cli.serving import serve_until_stopped

    flags: dict[str, str | int | None] = {
        "model": model or (None if config else DEFAULT_MODEL),
        "layout": layout,
        "router.grpc": grpc,
        "dtype": dtype,
        "quantization": quantization,
        "tensor_parallel": tensor_parallel,
        "expert_parallel": expert_parallel,
        "attention_parallel": attention_parallel,
        "experts.budget": expert_budget,
        "ray.address": ray_address,
    }
    asyncio.run(serve_until_stopped(_settings(config, flags)))


def _settings(config: Path | None, flags: dict[str, str | int | None]) -> "ClusterSpec":
    from triptych.config.load import load_spec, make_spec

    given = {key: value for key, value in flags.items() if value is not None}
    return load_spec(config, given) if config else make_spec(given)
