"""Which part of a checkpoint's tensor one of ours is, from the recipe's `Place` and the shapes that we want."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from triptych.models.extent import Extent
from triptych.models.recipes.place import Place
from triptych.models.sources import Shape

LAST_NUMBER = re.compile(r"(?<=\.)\d+(?=\.\D*$)")
"""Which expert a tensor of ours belongs to."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of our tensors within one of the checkpoint's.

    Attributes:
        name: The checkpoint's tensor.
        whole: The shape that it must have.
        shape: That of ours.
        index: Into its first dimension, if that counts experts.
        transposed: What is left is stored as [inputs, outputs].
        first: Our first row.
        step: From one of our rows to the next.
    """

    name: str
    whole: Shape
    shape: Shape
    index: int | None
    transposed: bool
    first: int
    step: int

    @property
    def contiguous(self) -> bool:
        """Whether it is one run of bytes in the file."""
        return not self.transposed and self.step == 1

    def within(self, whole: Extent) -> Extent:
        """Where our rows lie in the extent of the checkpoint's tensor; its last dimension may count bytes."""
        leading = 1 if self.index is None else 2
        row = whole.nbytes // max(1, prod(whole.shape[:leading]))
        skipped = (self.index or 0) * whole.shape[leading - 1] + self.first if self.shape else 0
        shape = (*self.shape[:1], *whole.shape[leading:])
        return replace(whole, offset=whole.offset + skipped * row, shape=shape)


def find_part(name: str, place: Place, wanted: Mapping[str, Shape], experts: int) -> Part:
    """The part that our tensor `name` is, if the checkpoint keeps it at `place`.

    Args:
        name: Of our tensor, with its ending.
        place: With a complete name.
        wanted: The shape of every tensor of ours, its siblings in the checkpoint's tensor among them.
        experts: How many tensors of ours differ from it by their last number only.
    """
    shape = wanted[name]
    rows = [wanted[sibling][0] * place.every for sibling in _siblings(name, place)] if shape else []
    before = rows[: place.of.index(name.split(".")[-2])] if place.of else []
    whole = (sum(rows), *shape[1:]) if shape else ()
    transposed = place.transposed and len(shape) > 1
    if transposed:
        whole = whole[::-1]
    if place.stacked:
        whole = (experts, *whole)
    index = int(LAST_NUMBER.findall(name)[0]) if place.stacked else None
    return Part(place.name, whole, shape, index, transposed, sum(before) + place.first, place.every)


def _siblings(name: str, place: Place) -> list[str]:
    """The tensors of ours whose rows the checkpoint's tensor holds, in its order."""
    *stem, _, ending = name.split(".")
    return [".".join((*stem, sibling, ending)) for sibling in place.of] or [name]
