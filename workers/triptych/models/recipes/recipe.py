"""What an architecture must say about itself."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from triptych.models.recipes.place import Place
from triptych.models.spec import ModelSpec, TextEncoderSpec

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorNames:
    """What the checkpoints of an architecture call our tensors.

    Attributes:
        names: For each of our tensors (`triptych.models.layout`), without .weight or .bias and with {} for numbers,
            where the checkpoint keeps it: a plain name, or a `Place`.
        roots: Beginnings of the checkpoint's names that some checkpoints spell otherwise, and how: the longest that
            fits counts, newest spelling first. The spelling of `names` is only tried if it is listed.
        ignored: Patterns (`fnmatch`) of tensors that a checkpoint may hold although nothing needs them.
    """

    names: Mapping[str, str | Place]
    roots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def places(self, name: str) -> tuple[Place, ...]:
        """Where a checkpoint may hold our tensor `name`, most likely first; complete names, endings included."""
        stem, _, ending = name.rpartition(".")
        place = self.names[_NUMBER.sub("{}", f"{stem}.").removesuffix(".")]
        place = Place(place) if isinstance(place, str) else place
        theirs = place.name.format(*_NUMBER.findall(f"{stem}.")) + (
            place.weight if ending == "weight" else place.bias
        )
        root = max((root for root in self.roots if theirs.startswith(root)), key=len, default="")
        spellings = self.roots.get(root, ("",))
        return tuple(replace(place, name=spelling + theirs.removeprefix(root)) for spelling in spellings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(TensorNames):
    """One architecture that generates; `read` fills the spec from a config dict."""

    read: Callable[[Mapping[str, Any]], ModelSpec]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRecipe(TensorNames):
    """One architecture that encodes texts; `read` fills the spec from a config dict."""

    read: Callable[[Mapping[str, Any]], TextEncoderSpec]
