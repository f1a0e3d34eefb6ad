"""All adapters of a model in memory, as the kernels take them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import torch

from triptych.kernels import LowRank, LowRankPair
from triptych.models.adapters.modules import adaptable_modules
from triptych.models.adapters.source import AdapterSource, Order
from triptych.models.progress import Progress
from triptych.models.recipes import recipe_for
from triptych.models.spec import AttentionSpec, DecoderSpec, ModelSpec
from triptych.models.weights import Weights, open_weights


@dataclass(frozen=True, slots=True)
class Adapters:
    """Adapters by number, from 0 in the order of their names.

    Attributes:
        names: What requests call them.
        of_linear: What they add to each projection, by our name of it; projections that none of them adapts are left
            out.
    """

    names: tuple[str, ...]
    of_linear: Mapping[str, LowRank]


NO_ADAPTERS: Final = Adapters((), {})
NO_FOLDERS: Final[Mapping[str, Path]] = MappingProxyType({})


def open_adapters(
    folders: Mapping[str, Path],
    spec: ModelSpec,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
    *,
    interleaved: bool,
) -> Adapters:
    """Opens adapters of a model; like its weights they are mapped, and shared by the processes of a host.

    Args:
        folders: As PEFT saves them, by the adapters' names.
        spec: The model.
        dtype: Of its activations, and of the factors.
        device: Where they go.
        progress: Told about conversions.
        interleaved: The model's rows of q and k are in the order that llama.cpp's rotary embedding wants.

    Raises:
        TriptychError: as `AdapterSource` and `open_weights`.
    """
    modules = adaptable_modules(spec.decoder, recipe_for(spec.architecture))
    order = partial(_neighbours, spec.decoder) if interleaved else _as_they_are
    opened = []
    for folder in folders.values():
        source = AdapterSource(folder, modules, order)
        opened.append((source.scales, open_weights(source, dtype, progress=progress)))
    of_linear = {
        name: _low_rank([_pair(name, scales, weights, device) for scales, weights in opened])
        for name in {name for scales, _ in opened for name in scales}
    }
    return Adapters(tuple(folders), of_linear)


def _pair(name: str, scales: Mapping[str, float], weights: Weights, device: torch.device) -> LowRankPair | None:
    if name not in scales:
        return None
    down, up = (weights.tensor(f"{name}.{factor}").to(device) for factor in ("down", "up"))
    return LowRankPair(down, up, scales[name])


def _low_rank(pairs: list[LowRankPair | None]) -> LowRank:
    known = next(pair for pair in pairs if pair is not None)
    return LowRank(tuple(pairs), known.down.shape[1], known.up.shape[1])


def _as_they_are(name: str) -> Order | None:
    return None


def _neighbours(spec: DecoderSpec, name: str) -> Order | None:
    """The two halves of each head of q and k in turns, as llama.cpp's conversion puts them."""
    *_, layer, _, projection = name.split(".")
    attention = spec.layers[int(layer)].attention
    if projection not in ("query", "key") or not isinstance(attention, AttentionSpec):
        return None
    heads = attention.num_heads if projection == "query" else attention.num_kv_heads
    rows = np.arange(heads * attention.head_dim)
    return rows.reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
