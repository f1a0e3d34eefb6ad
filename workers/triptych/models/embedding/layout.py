"""Every tensor that a text encoder is made of, by our names. No torch."""

from math import prod

from triptych.models.spec import BlocksSpec, DenseSpec, EmbedderSpec, TextEncoderSpec

Shapes = dict[str, tuple[int, ...]]


def encoder_tensors(spec: TextEncoderSpec) -> Shapes:
    """The shape of every tensor, by name."""
    hidden = spec.blocks.hidden_size
    shapes: Shapes = {"words.weight": (spec.vocab_size, hidden), "positions.weight": (spec.positions, hidden)}
    if spec.token_types:
        shapes["types.weight"] = (spec.token_types, hidden)
    shapes |= _norm("norm", hidden)
    for index in range(spec.blocks.num_layers):
        shapes |= _layer(f"layers.{index}", spec.blocks)
    return shapes


def dense_tensors(spec: DenseSpec) -> Shapes:
    """Those of a linear behind the pooling, which has a file of its own."""
    bias: Shapes = {"linear.bias": (spec.outputs,)} if spec.bias else {}
    return {"linear.weight": (spec.outputs, spec.inputs), **bias}


def parameters(spec: EmbedderSpec) -> int:
    """Elements of all tensors."""
    shapes = [encoder_tensors(spec.encoder), *map(dense_tensors, spec.dense)]
    return sum(prod(shape) for each in shapes for shape in each.values())


def linear_parameters(spec: EmbedderSpec) -> int:
    """Elements of the matrices that every token is multiplied by."""
    shapes = encoder_tensors(spec.encoder).items()
    return sum(prod(shape) for name, shape in shapes if name.startswith("layers.") and len(shape) == 2)


def _layer(prefix: str, spec: BlocksSpec) -> Shapes:
    hidden, inner = spec.hidden_size, spec.intermediate_size
    shapes: Shapes = {}
    for name in ("query", "key", "value", "output"):
        shapes |= _linear(f"{prefix}.attention.{name}", hidden, hidden)
    shapes |= _norm(f"{prefix}.attention_norm", hidden) | _norm(f"{prefix}.mlp_norm", hidden)
    return shapes | _linear(f"{prefix}.mlp.up", inner, hidden) | _linear(f"{prefix}.mlp.down", hidden, inner)


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
