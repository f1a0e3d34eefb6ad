"""Opens what keeps the experts of a rank in memory: in C++ where it compiles, else in torch."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import assert_never

import torch

from triptych.core.sizes import show_bytes
from triptych.experts.cache import DecayedUses, Fixed, LastUse, Scores
from triptych.experts.memory import Memory
from triptych.experts.native import NativeResidency
from triptych.experts.pool import LayerNeed, Pool, judged, pool_of
from triptych.experts.settings import OffloadSettings
from triptych.experts.speculation import SpeculationSwitch
from triptych.experts.steerable import Steerable
from triptych.experts.steered import SteeredResidency
from triptych.experts.store import Mend, PackedStore
from triptych.experts.torch import open_cpu, open_device
from triptych.experts.torch.cuda import CudaCopier
from triptych.experts.torch.mixture import register
from triptych.experts.torch.tables import LayerTables
from triptych.experts.warm import warm_path
from triptych.kernels import moe
from triptych.kernels.dispatch import REFERENCE
from triptych.kernels.native.compile import NotAvailable

logger = logging.getLogger(__name__)


def open_residency(
    store: PackedStore,
    mend: Mend,
    settings: OffloadSettings,
    *,
    device: torch.device,
    dtype: torch.dtype,
    experts: Sequence[tuple[int, ...]],
    top_k: Sequence[int],
    rank: int = 0,
    ranks: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> SteeredResidency:
    """Opens it, and has those read in the background that were needed most in the runs before.

    Args:
        store: The packed file.
        mend: Puts right what it does not hold any more.
        settings: With a budget that is settled: not `Auto`.
        device: Of the mixtures.
        dtype: Of the rows that go through them.
        experts: By layer: the rank's experts, by their numbers in the packed file.
        top_k: By layer: experts that a token takes.
        rank: Each remembers its own.
        ranks: Of the engine, all on this host.
        clock: Seconds.

    Raises:
        InvalidArgument: the budget does not hold the experts of one layer.
        DataLoss, Unavailable: the packed file cannot be opened.
    """
    memory = Memory(store, experts, warm_path(store, rank) if settings.warm else None, clock())
    shares = [memory.shares(layer) for layer in range(len(experts))]
    needs = [
        LayerNeed(len(numbers), count, packed.layout.nbytes, tuple(share), packed.layout.resident)
        for numbers, count, packed, share in zip(experts, top_k, store.layers, shares, strict=True)
    ]
    pool = pool_of(settings, needs)
    scores = [_scores(settings, share) for share in shares]
    inner = _open(store, mend, settings, pool, scores, experts, device, dtype, ranks)
    with ExitStack() as undo:
        undo.callback(inner.close)
        inner.warm(_wanted(pool, shares))
        switch = SpeculationSwitch() if judged(settings, pool) else None
        residency = SteeredResidency(inner, pool, memory, switch, clock)
        undo.pop_all()
    total = sum(need.experts for need in needs)
    logger.info(
        "%d of %d experts fit into %s: %d slots, of which layers keep %d to %d each",
        *(min(pool.slots, total), total, show_bytes(pool.nbytes)),
        *(pool.slots, min(pool.quotas), max(pool.quotas)),
    )
    return residency


def _open(
    store: PackedStore,
    mend: Mend,
    settings: OffloadSettings,
    pool: Pool,
    scores: Sequence[Scores],
    experts: Sequence[tuple[int, ...]],
    device: torch.device,
    dtype: torch.dtype,
    ranks: int,
) -> Steerable:
    if device.type != "cpu":
        register(device.type)
        copier = CudaCopier(device)
        return open_device(store, mend, settings, pool, scores, experts, copier, neighbours(device, ranks))
    if moe.backend("cpu") == REFERENCE:  # which does not wait for what is being read
        return open_cpu(store, mend, settings, pool, scores, experts)
    try:
        _require_kernels(store, dtype)
        return NativeResidency(store, mend, settings, pool, scores, experts)
    except NotAvailable as error:
        logger.warning("experts are read by Python threads, slower than in C++: %s", error)
        return open_cpu(store, mend, settings, pool, scores, experts)


def _require_kernels(store: PackedStore, dtype: torch.dtype) -> None:
    """Raises NotAvailable where compiled code does not compute with some experts: nothing else waits for them."""
    ids, weights = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1)
    for layout in {packed.layout for packed in store.layers}:
        experts = LayerTables(layout, 1, torch.empty(1, layout.nbytes, dtype=torch.uint8)).experts
        x = torch.empty(1, layout.gate.inputs, dtype=dtype)
        if not moe.takes(x, experts, ids, weights, "silu", torch.empty_like(x)):
            forms = ", ".join(f"{parts.form} of {parts.inputs}" for parts in (layout.gate, layout.up, layout.down))
            raise NotAvailable(f"moe has no compiled kernel for experts of this form and width: {forms} inputs")


def neighbours(device: torch.device, ranks: int) -> int:
    """Processes that may pin memory of this host at the same time: an engine's ranks, and who has its other devices.

    A device without a number is that of an engine that computes alone; ranks have one number each, or see a single
    device each.
    """
    return max(ranks, 1 if device.index is None else torch.cuda.device_count())


def _scores(settings: OffloadSettings, shares: Sequence[float]) -> Scores:
    """The policy's, as if the runs before had gone on until now."""
    match settings.policy:
        case "lfu-decay" | "ring":
            scores = DecayedUses([])
            scores.values = [share / (1 - scores.decay) for share in shares]
            return scores
        case "lru":
            return LastUse([share - 1 for share in shares])
        case "static-hot":
            return Fixed(list(shares))
        case _:
            assert_never(settings.policy)


def _wanted(pool: Pool, shares: Sequence[Sequence[float]]) -> Iterator[tuple[int, int]]:
    """Layers and experts of the runs before, the most needed of each layer first, layers in turn."""
    ranked = [sorted(range(len(layer)), key=layer.__getitem__, reverse=True) for layer in shares]
    for place in range(max(pool.quotas)):
        for layer, order in enumerate(ranked):
            if place < pool.quotas[layer] and shares[layer][order[place]] > 0:
                yield layer, order[place]
