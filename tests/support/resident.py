"""Experts of a packed file in a pool of slots, and the same ones in memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.support.random_experts import Made
from triptych.experts.cache import DecayedUses, Fixed, LastUse, Scores
from triptych.experts.native import NativeResidency
from triptych.experts.pool import Pool
from triptych.experts.settings import Bytes, OffloadSettings, PolicyName
from triptych.experts.store import Mend
from triptych.kernels import ExpertProjection, Experts, moe
from triptych.kernels.native import team


def open_native(
    made: Made,
    slots: int,
    quotas: Sequence[int],
    *,
    most: int = 0,
    policy: PolicyName = "lfu-decay",
    readers: int = 2,
    mend: Mend | None = None,
) -> NativeResidency:
    """Without `mend` the file stays what it is."""
    counts = [layer.experts for layer in made.store.layers]
    pool = Pool(slots, made.store.blob_bytes, tuple(quotas), most)
    settings = OffloadSettings(budget=Bytes(pool.nbytes), policy=policy, readers=readers)
    numbers = [tuple(range(count)) for count in counts]
    return NativeResidency(
        made.store, mend or (lambda layer, expert: made.store), settings, pool, fresh(policy, counts), numbers
    )


def fresh(policy: PolicyName, counts: Sequence[int]) -> list[Scores]:
    """Of layers with so many experts."""
    match policy:
        case "lru":
            return [LastUse([0.0] * count) for count in counts]
        case "static-hot":
            return [Fixed([float(7 * e % count) for e in range(count)]) for count in counts]
        case _:
            return [DecayedUses([0.0] * count) for count in counts]


def in_memory(made: Made, layer: int, numbers: Sequence[int] | None = None) -> Experts:
    """The experts of a layer with these numbers, or all of them: sums are made in this order."""
    experts = [made.experts[layer, expert] for expert in numbers or range(made.store.layers[layer].experts)]

    def projection(place: int) -> ExpertProjection:
        matrices = [expert[place] for expert in experts]
        biases = tuple(matrix.bias for matrix in matrices if matrix.bias is not None)
        return ExpertProjection(tuple(matrix.weight for matrix in matrices), biases or None)

    return Experts(projection(0), projection(1), projection(2))


def choices(tokens: int, top_k: int, count: int) -> tuple[Tensor, Tensor]:
    """Random ids and weights [T, K]."""
    ids = torch.rand(tokens, count).argsort(dim=1)[:, :top_k].int().contiguous()
    return ids, torch.rand(tokens, top_k)


def choices_of_all(tokens: int, top_k: int, count: int) -> tuple[Tensor, Tensor]:
    """As `choices`, of which the first rows ask for every expert."""
    ids, weights = choices(tokens, top_k, count)
    ids[:count] = (torch.arange(count)[:, None] + torch.arange(top_k)) % count
    return ids, weights


def computed(experts: Experts, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """What a mixture of them makes of x."""
    out = torch.empty_like(x)
    moe(x, experts, ids, weights, "silu", out)
    return out


def recorded(
    residency: NativeResidency, x: Tensor, ids: Tensor, weights: Tensor, outs: Sequence[Tensor], count: int
) -> team.Program:
    """A step through a layer of `count` experts for each of outs; some of the next one are read in advance."""
    with team.capture() as program:
        for layer, out in enumerate(outs):
            residency.ensure(layer, ids)
            residency.prefetch((layer + 1) % len(outs), torch.zeros(1, count), ids.shape[1])
            moe(x, residency.experts(layer), ids, weights, "silu", out)
    return program
