"""LlavaNextForConditionalGeneration: LLaVA with tiles of the resolution that fits a picture best.

Defaults are those of transformers' LlavaNextConfig.
"""

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.towers import read_clip, read_projector
from triptych.models.spec import LlavaNextVision

_RESOLUTIONS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def read_vision(fields: Fields, output_size: int) -> LlavaNextVision:
    """The vision side."""
    fields.choice("vision_feature_select_strategy", "default", ("default",))
    tower = read_clip(
        fields.section("vision_config"), fields.integer("vision_feature_layer", -2), keep_class_token=False
    )
    return LlavaNextVision(
        tower=tower,
        projector=read_projector(fields, output_size),
        resolutions=_resolutions(fields, tower.image_size),
    )


def _resolutions(fields: Fields, tile: int) -> tuple[tuple[int, int], ...]:
    pairs = fields.pairs("image_grid_pinpoints", _RESOLUTIONS)
    for height, width in pairs:
        if height % tile or width % tile or not height * width:
            raise InvalidArgument(
                f"config: image_grid_pinpoints must be multiples of vision_config.image_size = {tile}, got "
                f"{height} x {width}",
                field="image_grid_pinpoints",
            )
    return pairs
