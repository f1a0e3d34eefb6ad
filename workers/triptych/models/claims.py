"""Which tensors of a checkpoint nothing asks for."""

from collections.abc import Collection
from fnmatch import fnmatchcase

from triptych.core.errors import DataLoss
from triptych.models.recipes import Recipe
from triptych.models.sources import Source

_IGNORED = ("*rotary_emb.inv_freq", "*.position_ids")
"""Buffers that older versions of transformers saved: facts of the configuration, in every family."""


def refuse_unused(source: Source, recipe: Recipe, wanted: Collection[str]) -> None:
    """Refuses a checkpoint with tensors that the model would have to ignore: its answers would be others.

    A bias of zeros adds nothing, and is left alone: AutoGPTQ used to write them for every projection.

    Args:
        source: The checkpoint. Only shards with a bias that nothing asks for are opened.
        recipe: Knows what it calls our tensors, and what may be ignored.
        wanted: All tensors of the model by our names, those that this process does not load included.

    Raises:
        DataLoss: there is such a tensor; the message names the first, and how many more there are.
    """
    claimed = {place.name for name in wanted for place in recipe.places(name)}
    patterns = (*_IGNORED, *recipe.ignored)
    unused = [
        name
        for name in source.shapes
        if name not in claimed
        and not any(fnmatchcase(name, pattern) for pattern in patterns)
        and not _adds_nothing(source, name)
    ]
    if unused:
        more = f" (nor for {len(unused) - 1} others)" if unused[1:] else ""
        raise DataLoss(f"{source.describe(unused[0])} is unused: config.json calls for no such tensor{more}")


def _adds_nothing(source: Source, name: str) -> bool:
    if not name.endswith(".bias") or len(source.shapes[name]) != 1:
        return False
    return not source.read(name, 0, source.shapes[name][0]).any()
