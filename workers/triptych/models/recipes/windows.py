"""Which layers see a sliding window only (arXiv:2004.05150)."""

from dataclasses import replace

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.spec import AttentionSpec

SLIDING, FULL = "sliding_attention", "full_attention"


def layer_types(fields: Fields, default: tuple[str, ...]) -> tuple[str, ...]:
    """What kind of attention each layer has, from `layer_types` or as the architecture has it.

    Raises:
        InvalidArgument: another number of layers than the model has.
        Unimplemented: a kind that is not known.
    """
    kinds = fields.texts("layer_types", default)
    if len(kinds) != len(default):
        raise InvalidArgument(
            f"config: layer_types must name {len(default)} layers, got {len(kinds)}", field="layer_types"
        )
    for kind in kinds:
        if kind not in (SLIDING, FULL):
            raise fields.unsupported("layer_types", kind, f"{FULL} or {SLIDING}")
    return kinds


def qwen_layer_types(fields: Fields, num_layers: int) -> tuple[str, ...]:
    """Windows from layer `max_window_layers` on, if `use_sliding_window` says so."""
    slides = fields.flag("use_sliding_window", False)
    first = fields.integer("max_window_layers", 28) if slides else num_layers
    return layer_types(fields, tuple(SLIDING if index >= first else FULL for index in range(num_layers)))


def windowed(attention: AttentionSpec, kinds: tuple[str, ...], window: int | None) -> tuple[AttentionSpec, ...]:
    """The attention of each layer; a null window slides nowhere."""
    return tuple(replace(attention, window=window or 0) if kind == SLIDING else attention for kind in kinds)
