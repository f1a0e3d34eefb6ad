"""Every tensor that a text encoder is made of, by our names. No torch."""

from math import prod

from triptych.models.shapes import Shapes, block, linear, norm
from triptych.models.spec import DenseSpec, EmbedderSpec, TextEncoderSpec


def encoder_tensors(spec: TextEncoderSpec) -> Shapes:
    """The shape of every tensor, by name."""
    hidden = spec.blocks.hidden_size
    shapes: Shapes = {"words.weight": (spec.vocab_size, hidden), "positions.weight": (spec.positions, hidden)}
    if spec.token_types:
        shapes["types.weight"] = (spec.token_types, hidden)
    shapes |= norm("norm", hidden, bias=True)
    for index in range(spec.blocks.num_layers):
        shapes |= block(f"layers.{index}", spec.blocks, norm_bias=True)
    return shapes


def dense_tensors(spec: DenseSpec) -> Shapes:
    """Those of a linear behind the pooling, which has a file of its own."""
    return linear("linear", spec.outputs, spec.inputs, bias=spec.bias)


def parameters(spec: EmbedderSpec) -> int:
    """Elements of all tensors."""
    shapes = [encoder_tensors(spec.encoder), *map(dense_tensors, spec.dense)]
    return sum(prod(shape) for each in shapes for shape in each.values())


def linear_parameters(spec: EmbedderSpec) -> int:
    """Elements of the matrices that every token is multiplied by."""
    shapes = encoder_tensors(spec.encoder).items()
    return sum(prod(shape) for name, shape in shapes if name.startswith("layers.") and len(shape) == 2)
