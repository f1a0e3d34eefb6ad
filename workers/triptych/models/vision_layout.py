"""Every tensor that a vision tower and its projector are made of, by our names. No torch."""

from triptych.models.spec import VisionSpec


def vision_tensors(spec: VisionSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, by name."""
    hidden, patch, width = spec.hidden_size, spec.patch_size, spec.projector.output_size
    shapes: dict[str, tuple[int, ...]] = {
        "vision.patches.weight": (hidden, spec.num_channels, patch, patch),
        "vision.class_token.weight": (hidden,),
        "vision.positions.weight": (spec.num_patches + 1, hidden),
        **_norm("vision.norm", hidden),
        **_linear("projector.up", width, hidden, bias=spec.projector.bias),
        **_linear("projector.down", width, width, bias=spec.projector.bias),
    }
    for index in range(spec.num_layers):
        prefix = f"vision.layers.{index}"
        for name in ("query", "key", "value", "output"):
            shapes |= _linear(f"{prefix}.attention.{name}", hidden, hidden, bias=True)
        shapes |= _norm(f"{prefix}.attention_norm", hidden) | _norm(f"{prefix}.mlp_norm", hidden)
        shapes |= _linear(f"{prefix}.mlp.up", spec.intermediate_size, hidden, bias=True)
        shapes |= _linear(f"{prefix}.mlp.down", hidden, spec.intermediate_size, bias=True)
    return shapes


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, outputs: int, inputs: int, *, bias: bool) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if bias else weight
