"""Packed experts, the mixtures that they stand for, and residencies that keep some of them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tests.support.random_experts import Made
from triptych.experts.blob import Expert
from triptych.experts.cache import DecayedUses, Scores
from triptych.experts.pool import Pool
from triptych.experts.residency import Residency
from triptych.experts.store import PackedStore
from triptych.kernels import ExpertProjection, Experts, moe

GATING = "silu"


def resident(experts: Sequence[Expert]) -> Experts:
    """All of a layer."""
    projections = []
    for part in range(3):
        biases = tuple(expert[part].bias for expert in experts)
        given = None if biases[0] is None else tuple(bias for bias in biases if bias is not None)
        projections.append(ExpertProjection(tuple(expert[part].weight for expert in experts), given))
    return Experts(*projections)


def layer_of(made: Made, layer: int, numbers: Sequence[int]) -> Experts:
    """A layer's experts as a checkpoint has them."""
    return resident([made.experts[layer, number] for number in numbers])


def scores_of(store: PackedStore) -> list[Scores]:
    return [DecayedUses([0.0] * layer.experts) for layer in store.layers]


def pool_for(store: PackedStore, slots: int, quotas: Sequence[int], speculative: int = 0) -> Pool:
    return Pool(slots, store.blob_bytes, tuple(quotas), speculative)


def draw_ids(tokens: int, experts: int, top_k: int) -> Tensor:
    """Distinct experts for each token."""
    return torch.stack([torch.randperm(experts)[:top_k] for _ in range(tokens)]).int()


def mixed(experts: Experts, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """By the reference."""
    out = torch.empty_like(x)
    moe.implementation("reference")(x, experts, ids, weights, GATING, out)
    return out


def step(residency: Residency, layer: int, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """What a mixture does."""
    residency.ensure(layer, ids)
    return mixed(residency.experts(layer), x, ids, weights)


def no_mend(layer: int, expert: int) -> PackedStore:
    raise AssertionError(f"nothing is damaged, asked for expert {expert} of {layer}")


def pack_path(folder: Path) -> Path:
    return folder / "model.experts"
