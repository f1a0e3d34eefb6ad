"""Every tensor that a vision tower and its projector are made of, by our names. No torch."""

from typing import assert_never

from triptych.models.shapes import Shapes, block, linear, norm
from triptych.models.spec import (
    BlocksSpec,
    ClipTower,
    Gemma3Vision,
    Idefics3Vision,
    LlavaNextVision,
    LlavaVision,
    ProjectorSpec,
    Qwen3Vision,
    Qwen25Vision,
    SiglipTower,
    VisionSpec,
)


def vision_tensors(spec: VisionSpec) -> Shapes:
    """The shape of every tensor, by name."""
    match spec:
        case LlavaVision():
            return _tiles(spec.tower) | _mlp(spec.projector, spec.tower.blocks.hidden_size)
        case LlavaNextVision():
            newline = {"projector.newline.weight": (spec.output_size,)}
            return _tiles(spec.tower) | _mlp(spec.projector, spec.tower.blocks.hidden_size) | newline
        case Idefics3Vision():
            width = spec.tower.blocks.hidden_size * spec.shuffle**2
            return _tiles(spec.tower) | linear("projector.linear", spec.output_size, width, bias=False)
        case Gemma3Vision():
            width = spec.tower.blocks.hidden_size
            projector = linear("projector.linear", spec.output_size, width, bias=False)
            return _tiles(spec.tower) | projector | {"projector.norm.weight": (width,)}
        case Qwen25Vision():
            return _qwen25(spec)
        case Qwen3Vision():
            return _qwen3(spec)
        case _:
            assert_never(spec)


def _tiles(spec: ClipTower | SiglipTower) -> Shapes:
    hidden, patch = spec.blocks.hidden_size, spec.patch_size
    shapes = {"vision.patches.weight": (hidden, spec.num_channels, patch, patch)} | _layers(spec.blocks, bias=True)
    match spec:
        case ClipTower():
            shapes |= {"vision.class_token.weight": (hidden,), "vision.positions.weight": (spec.side**2 + 1, hidden)}
            return shapes | norm("vision.norm", hidden, bias=True)
        case SiglipTower():
            shapes |= {"vision.patches.bias": (hidden,), "vision.positions.weight": (spec.side**2, hidden)}
            return shapes | norm("vision.output_norm", hidden, bias=True)
        case _:
            assert_never(spec)


def _qwen25(spec: Qwen25Vision) -> Shapes:
    hidden, grid = spec.blocks.hidden_size, spec.grid
    shapes: Shapes = {
        "vision.patches.weight": (hidden, grid.num_channels, grid.frames, grid.patch_size, grid.patch_size)
    }
    for index in range(spec.blocks.num_layers):
        shapes |= linear(f"vision.layers.{index}.mlp.gate", spec.blocks.intermediate_size, hidden, bias=True)
    shapes |= _layers(spec.blocks, bias=False) | norm("projector.norm", hidden, bias=False)
    return shapes | _merger("projector", hidden * grid.merge**2, spec.output_size)


def _qwen3(spec: Qwen3Vision) -> Shapes:
    hidden, grid = spec.blocks.hidden_size, spec.grid
    merged = hidden * grid.merge**2
    shapes: Shapes = {
        "vision.patches.weight": (hidden, grid.num_channels, grid.frames, grid.patch_size, grid.patch_size),
        "vision.patches.bias": (hidden,),
        "vision.positions.weight": (spec.side**2, hidden),
    }
    for level in range(len(spec.level_layers)):
        prefix = f"projector.levels.{level}"
        shapes |= _merger(prefix, merged, spec.output_size) | norm(f"{prefix}.norm", merged, bias=True)
    shapes |= _layers(spec.blocks, bias=True) | norm("projector.norm", hidden, bias=True)
    return shapes | _merger("projector", merged, spec.output_size)


def _layers(spec: BlocksSpec, *, bias: bool) -> Shapes:
    """`bias` is on the norms."""
    shapes: Shapes = {}
    for index in range(spec.num_layers):
        shapes |= block(f"vision.layers.{index}", spec, norm_bias=bias)
    return shapes


def _mlp(spec: ProjectorSpec, inputs: int) -> Shapes:
    up = linear("projector.up", spec.output_size, inputs, bias=spec.bias)
    return up | linear("projector.down", spec.output_size, spec.output_size, bias=spec.bias)


def _merger(prefix: str, merged: int, outputs: int) -> Shapes:
    return linear(f"{prefix}.up", merged, merged, bias=True) | linear(f"{prefix}.down", outputs, merged, bias=True)
