"""The linear modules of a model that may have an adapter, by the names that they have in transformers."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from triptych.models.layout import decoder_tensors
from triptych.models.part import Part, find_part
from triptych.models.recipes import Recipe
from triptych.models.sources import Shape
from triptych.models.spec import AttentionSpec, DecoderSpec

_ADAPTED = re.compile(
    r"layers\.(?P<layer>\d+)\.(?:attention\.(?:query|key|value|output)|mlp\.(?:shared\.)?(?:gate|up|down))\.weight"
)
_ENDING = ".weight"


@dataclass(frozen=True, slots=True)
class Held:
    """One of our projections within a module.

    Attributes:
        name: Such as "layers.0.attention.query".
        rows: The module's outputs that are ours.
    """

    name: str
    rows: slice


@dataclass(frozen=True, slots=True)
class Module:
    """A linear module.

    Attributes:
        names: What checkpoints call it, most likely first.
        layer: That it is part of.
        outputs: Of the whole module.
        inputs: Of it.
        held: The projections that it consists of.
    """

    names: tuple[str, ...]
    layer: int
    outputs: int
    inputs: int
    held: tuple[Held, ...]


def adaptable_modules(spec: DecoderSpec, recipe: Recipe) -> tuple[Module, ...]:
    """Projections of grouped-query attention and of feed-forward blocks that every token goes through."""
    wanted = decoder_tensors(spec)
    found: dict[tuple[str, ...], list[tuple[str, Part]]] = defaultdict(list)
    for name in wanted:
        match = _ADAPTED.fullmatch(name)
        if match and (".mlp." in name or isinstance(spec.layers[int(match["layer"])].attention, AttentionSpec)):
            parts = _parts(name, recipe, wanted)
            if all(part.index is None and not part.transposed for part in parts):
                found[tuple(part.name.removesuffix(_ENDING) for part in parts)].append((name, parts[0]))
    return tuple(_module(names, held) for names, held in found.items())


def _parts(name: str, recipe: Recipe, wanted: Mapping[str, Shape]) -> list[Part]:
    return [find_part(name, place, wanted, 0) for place in recipe.places(name)]


def _module(names: tuple[str, ...], held: list[tuple[str, Part]]) -> Module:
    outputs, inputs = held[0][1].whole
    return Module(
        names=names,
        layer=int(held[0][0].split(".")[1]),
        outputs=outputs,
        inputs=inputs,
        held=tuple(Held(name.removesuffix(_ENDING), _rows(part)) for name, part in held),
    )


def _rows(part: Part) -> slice:
    return slice(part.first, part.first + part.shape[0] * part.step, part.step)
