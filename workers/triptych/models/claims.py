"""Tensors of a checkpoint that nothing asks for, or that are not what they should be."""

from collections.abc import Collection
from fnmatch import fnmatchcase

import numpy as np

from triptych.core.errors import DataLoss
from triptych.models.recipes.recipe import TensorNames
from triptych.models.sources import Source

_EMBEDDING, _HEAD = "embedding.weight", "head.weight"
_CHUNK = 4 << 20  # elements compared at a time

_IGNORED = ("*rotary_emb.*", "*.position_ids")
"""Buffers that older versions of transformers saved: facts of the configuration, in every family."""


def refuse_unused(source: Source, recipe: TensorNames, wanted: Collection[str]) -> None:
    """Refuses a checkpoint with tensors that the model would have to ignore: its answers would be others.

    A bias of zeros adds nothing, and is left alone: AutoGPTQ used to write them for every projection.

    Args:
        source: The checkpoint. Only shards with a bias that nothing asks for are opened.
        recipe: Knows what it calls our tensors, and what may be ignored.
        wanted: All tensors of the model by our names, those that this process does not load included.

    Raises:
        DataLoss: there is such a tensor; the message names the first, and how many more there are.
    """
    tied = (_HEAD,) if "head" in recipe.names else ()  # a copy of the embedding may be there
    claimed = {place.name for name in (*wanted, *tied) for place in recipe.places(name)}
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


def require_tied_head(source: Source, recipe: TensorNames) -> None:
    """Refuses a checkpoint with a head of its own, if the config says that the head is the embedding.

    transformers would use that head, and warn; many checkpoints hold a copy of the embedding, which is fine.

    Raises:
        DataLoss: the two differ.
    """
    stored = [_stored(source, recipe, name) for name in (_EMBEDDING, _HEAD)]
    table, head = stored
    if table is None or head is None:
        return
    rows, *rest = source.shapes[table]
    step = max(1, _CHUNK // max(1, int(np.prod(rest))))
    same = source.shapes[head] == source.shapes[table] and all(
        np.array_equal(source.read(table, start, stop), source.read(head, start, stop))
        for start, stop in ((start, min(start + step, rows)) for start in range(0, rows, step))
    )
    if not same:
        raise DataLoss(
            f"{source.describe(head)} differs from tensor {table}, which config.json says is the head too: "
            "tie_word_embeddings must be false, or the tensor go"
        )


def _stored(source: Source, recipe: TensorNames, name: str) -> str | None:
    """What the checkpoint calls our tensor, if it has it."""
    return next((place.name for place in recipe.places(name) if place.name in source.shapes), None)


def _adds_nothing(source: Source, name: str) -> bool:
    if not name.endswith(".bias") or len(source.shapes[name]) != 1:
        return False
    return not source.read(name, 0, source.shapes[name][0]).any()
