"""From a model's files to the layouts and the preprocessor of its pictures."""

from typing import assert_never

from triptych.core.errors import InvalidArgument
from triptych.models.files import ModelFiles
from triptych.models.pictures.layout import Layouts
from triptych.models.pictures.patch_layouts import PatchLayouts
from triptych.models.pictures.prepared import Preprocessor
from triptych.models.pictures.resizing import PixelBudget
from triptych.models.pictures.settings import IDEFICS3, QWEN, fields_of, image_settings, video_settings
from triptych.models.pictures.splitting import Splitting
from triptych.models.pictures.tile_layouts import (
    Gemma3Arrangement,
    Idefics3Arrangement,
    LlavaArrangement,
    LlavaNextArrangement,
    TileLayouts,
)
from triptych.models.recipes.fields import Fields
from triptych.models.spec import (
    Gemma3Vision,
    Idefics3Vision,
    LlavaNextVision,
    LlavaVision,
    ModelSpec,
    Qwen3Vision,
    Qwen25Vision,
)


def open_layouts(files: ModelFiles, spec: ModelSpec) -> Layouts | None:
    """The layouts of a model's pictures; None for one that reads text only. Imports neither torch nor transformers.

    Raises:
        FailedPrecondition: the model does not say how its pictures are prepared.
        Unimplemented: a processor or a setting that this version does not have.
    """
    token_id = spec.image_token_id
    if spec.vision is None or token_id is None:
        return None
    match spec.vision:
        case LlavaVision() as vision:
            return TileLayouts(token_id, token_id, LlavaArrangement(vision))
        case LlavaNextVision() as vision:
            return TileLayouts(token_id, token_id, LlavaNextArrangement(vision))
        case Idefics3Vision() as vision:
            return TileLayouts(token_id, token_id, Idefics3Arrangement(vision, _splitting(files)))
        case Gemma3Vision() as vision:
            return TileLayouts(vision.begin_token_id, token_id, Gemma3Arrangement(vision))
        case Qwen25Vision() | Qwen3Vision() as vision:
            return _patch_layouts(files, token_id, vision)
        case _:
            assert_never(spec.vision)


def open_preprocessor(files: ModelFiles, spec: ModelSpec) -> Preprocessor:
    """The preprocessor of a model's pictures.

    Raises:
        InvalidArgument: the model reads text only.
        FailedPrecondition, Unimplemented: as `open_layouts`.
    """
    layouts = open_layouts(files, spec)
    if layouts is None:
        raise InvalidArgument(f"{files.name} ({spec.architecture}) reads no pictures", field="model")
    # Imported here because transformers' processors take half of the time that a language model takes to start.
    if isinstance(layouts, PatchLayouts):
        from triptych.models.pictures.patch_preprocessor import load_patch_preprocessor

        return load_patch_preprocessor(files, layouts)
    from triptych.models.pictures.tile_preprocessor import load_tile_preprocessor

    return load_tile_preprocessor(files, layouts, spec)


def _splitting(files: ModelFiles) -> Splitting:
    fields = fields_of(image_settings(files, IDEFICS3))
    fields.refuse("do_resize", True)
    return Splitting(
        longest_edge=fields.section("size").count("longest_edge", 4 * 364),
        tile=fields.section("max_image_size").count("longest_edge", 364),
        split=fields.flag("do_image_splitting", True),
    )


def _patch_layouts(files: ModelFiles, token_id: int, vision: Qwen25Vision | Qwen3Vision) -> PatchLayouts:
    images = fields_of(image_settings(files, QWEN))
    videos = fields_of(video_settings(files))
    for name, default, wanted in (
        ("patch_size", 14, vision.grid.patch_size),
        ("temporal_patch_size", 2, vision.grid.frames),
        ("merge_size", 2, vision.grid.merge),
    ):
        for fields, default_here in ((images, default), (videos, wanted)):
            if fields.count(name, default_here) != wanted:
                raise fields.unsupported(name, fields.count(name, default_here), f"{wanted}, as vision_config says")
    for fields in (images, videos):
        fields.refuse("do_resize", True)
    edge = 28 if isinstance(vision, Qwen25Vision) else 32  # of a row, where the defaults of videos come from
    return PatchLayouts(
        image_placeholder=token_id,
        spec=vision,
        images=_budget(images, PixelBudget(56 * 56, 28 * 28 * 1280)),
        videos=_budget(videos, PixelBudget(128 * edge * edge, 768 * edge * edge)),
    )


def _budget(fields: Fields, default: PixelBudget) -> PixelBudget:
    size = fields.section("size")
    return PixelBudget(
        least=fields.count("min_pixels", size.count("shortest_edge", default.least)),
        most=fields.count("max_pixels", size.count("longest_edge", default.most)),
    )
