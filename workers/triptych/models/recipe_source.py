"""A checkpoint seen as our tensors: the recipe's names, parts, stacks and transposes undone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from triptych.core.errors import DataLoss
from triptych.models.extent import Extent
from triptych.models.part import LAST_NUMBER, Part, find_part
from triptych.models.recipes.recipe import TensorNames
from triptych.models.sources import FloatArray, Shape, Source
from triptych.models.stored import StoredBlocks


class RecipeSource:
    """The tensors that we want of a checkpoint, each wherever the recipe finds it.

    Args:
        source: The checkpoint.
        recipe: Knows what it calls our tensors.
        wanted: Their shapes.

    Raises:
        DataLoss: a tensor is missing or has another shape than ours need; the message names the file, what the
            checkpoint may call it, and the shape. Nothing but headers has been read by then.
    """

    def __init__(self, source: Source, recipe: TensorNames, wanted: Mapping[str, Shape]) -> None:
        self.path = source.path
        self.files = source.files
        self.interleaved = source.interleaved
        self.shapes = wanted
        self._source = source
        experts = Counter(LAST_NUMBER.sub("", name) for name in wanted)
        self._parts = {name: self._find(name, recipe, experts[LAST_NUMBER.sub("", name)]) for name in wanted}
        self._unpacked: tuple[tuple[str, int | None], FloatArray] = (("", None), np.empty(0))

    def describe(self, name: str) -> str:
        """The file, and what the checkpoint calls the tensor."""
        return self._source.describe(self._parts[name].name)

    def origin(self, name: str) -> str:
        """The checkpoint's tensor, and which part of it is ours."""
        part = self._parts[name]
        return f"{part!r} of {self._source.origin(part.name)}"

    def extent(self, name: str, dtype: str) -> Extent | None:
        """Where our rows lie ready for use as `dtype`; None when they have to be converted or put in order."""
        part = self._parts[name]
        whole = self._source.extent(part.name, dtype) if part.contiguous else None
        own = None if whole is None else part.within(whole)
        return own if own is not None and own.aligned else None

    def blocks(self, name: str) -> StoredBlocks | None:
        """Where the blocks of our rows lie, if a kernel reads them as they are."""
        part = self._parts[name]
        whole = self._source.blocks(part.name) if part.contiguous else None
        return None if whole is None else replace(whole, blocks=part.within(whole.blocks))

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop) of ours."""
        part = self._parts[name]
        rows = slice(part.first + start * part.step, part.first + (stop - 1) * part.step + 1, part.step)
        if part.index is None and not part.transposed:
            return self._source.read(part.name, rows.start, rows.stop)[:: part.step]
        matrix = self._matrix(part)
        return (matrix.T if part.transposed else matrix)[rows]

    def _matrix(self, part: Part) -> FloatArray:
        """The expert's tensor, or the transposed matrix, that our rows are in.

        A matrix is kept: the next rows are in it too, and those of a sibling. A vector between them does not matter.
        """
        key = part.name, part.index
        if self._unpacked[0] == key:
            return self._unpacked[1]
        if part.index is None:
            whole = self._source.read(part.name, 0, part.whole[0])
        else:
            whole = self._source.read(part.name, part.index, part.index + 1)[0]
        if whole.ndim > 1:
            self._unpacked = key, whole
        return whole

    def _find(self, name: str, recipe: TensorNames, experts: int) -> Part:
        places = recipe.places(name)
        parts = [find_part(name, place, self.shapes, experts) for place in places]
        part = next((part for part in parts if part.name in self._source.shapes), None)
        if part is None:
            raise DataLoss(
                f"{self.path} has no tensor {' or '.join(part.name for part in parts)}; "
                f"expected shape {list(parts[0].whole)}"
            )
        if (actual := self._source.shapes[part.name]) != part.whole:
            raise DataLoss(
                f"{self._source.describe(part.name)} must have shape {list(part.whole)}, found {list(actual)}"
            )
        return part
