"""Files of experts with rounded ones beside them, and what those stand for."""

from dataclasses import replace

import torch

from tests.support.random_experts import Made
from triptych.experts.blob import BlobLayout, Expert
from triptych.experts.settings import Rounding
from triptych.experts.store import expand, rounded, write_pack


def with_rounded(made: Made, to: Rounding = "int8") -> Made:
    """The same experts, of which rounded ones may be read."""
    coarse = {who: rounded(expert, to) for who, expert in made.experts.items()}
    shape = [(layer_layout(coarse, number), layer.experts) for number, layer in enumerate(made.store.layers)]
    store = write_pack(made.path.with_suffix(".rounded"), shape, lambda *who: coarse[who])
    return Made(made.experts, replace(made.store, rounded=store))


def layer_layout(experts: dict[tuple[int, int], Expert], layer: int) -> BlobLayout:
    return BlobLayout.of(experts[layer, 0])


def coarse(made: Made, to: Rounding = "int8") -> Made:
    """The experts that rounded ones stand for."""
    found = {}
    for (layer, number), expert in made.experts.items():
        layout = made.store.layers[layer].layout
        blob = torch.zeros(layout.nbytes, dtype=torch.uint8)
        expand(rounded(expert, to), layout, blob)
        found[layer, number] = layout.view(blob)
    return Made(found, made.store)
