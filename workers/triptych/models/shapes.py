"""Shapes of the tensors that every model is made of, by our names. No torch."""

from triptych.models.spec import BlocksSpec

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, outputs: int, inputs: int, *, bias: bool) -> Shapes:
    """A projection."""
    weight: Shapes = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if bias else weight


def norm(name: str, width: int, *, bias: bool) -> Shapes:
    """A norm over so many numbers."""
    weight: Shapes = {f"{name}.weight": (width,)}
    return weight | {f"{name}.bias": (width,)} if bias else weight


def block(prefix: str, spec: BlocksSpec, *, norm_bias: bool) -> Shapes:
    """A layer whose rows all see each other: attention and an ungated feed-forward, both with biases."""
    hidden, inner = spec.hidden_size, spec.intermediate_size
    shapes: Shapes = {}
    for name in ("query", "key", "value", "output"):
        shapes |= linear(f"{prefix}.attention.{name}", hidden, hidden, bias=True)
    for name in ("attention_norm", "mlp_norm"):
        shapes |= norm(f"{prefix}.{name}", hidden, bias=norm_bias)
    up = linear(f"{prefix}.mlp.up", inner, hidden, bias=True)
    return shapes | up | linear(f"{prefix}.mlp.down", hidden, inner, bias=True)
