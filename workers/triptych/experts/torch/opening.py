"""Puts a `TorchResidency` together."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import assert_never

from torch import Tensor

from triptych.core.errors import InvalidArgument
from triptych.core.sizes import show_bytes
from triptych.experts.cache import Scores
from triptych.experts.fit import free_memory
from triptych.experts.pool import Pool
from triptych.experts.settings import OffloadSettings
from triptych.experts.store import Mend, PackedStore
from triptych.experts.torch.cold import Cold, Copied, Soonest
from triptych.experts.torch.copier import Copier
from triptych.experts.torch.device_lane import DeviceLane
from triptych.experts.torch.file_lane import FileLane
from triptych.experts.torch.finish import Costs
from triptych.experts.torch.host_slots import HostPool
from triptych.experts.torch.host_tier import HostTier
from triptych.experts.torch.pack_file import PackFile
from triptych.experts.torch.residency import TorchResidency

_CPU_BANDWIDTH = 10e9
"""Bytes per second that a CPU computes with, until that has been measured."""
_CPU_EXPANDS = 1e9
"""Bytes per second that a CPU makes of rounded experts, until that has been measured."""


def open_cpu(
    store: PackedStore,
    mend: Mend,
    settings: OffloadSettings,
    pool: Pool,
    scores: Sequence[Scores],
    experts: Sequence[tuple[int, ...]],
) -> TorchResidency:
    """Slots in the memory that the CPU computes with.

    Raises:
        Unavailable: the packed file cannot be opened.
    """
    file = PackFile(store, mend)
    with ExitStack() as undo:
        lane = FileLane(file, pool, settings.readers)
        undo.callback(lane.close)
        residency = TorchResidency(store, file, lane, pool, scores, experts)
        undo.pop_all()
    return residency


def open_device(
    store: PackedStore,
    mend: Mend,
    settings: OffloadSettings,
    pool: Pool,
    scores: Sequence[Scores],
    experts: Sequence[tuple[int, ...]],
    copier: Copier,
    sharing: int = 1,
) -> TorchResidency:
    """Slots in the memory of an accelerator, and host memory behind them.

    What may not be had is asked for first, and threads begin last; nothing is left of it where something fails.

    Args:
        store: The packed file.
        mend: Puts right what it does not hold any more.
        settings: How experts are kept.
        pool: The accelerator's slots.
        scores: Of each layer's experts.
        experts: By layer: their numbers in the packed file.
        copier: To the accelerator.
        sharing: Processes that divide among them what is free of the host's memory, where no setting says how much.

    Raises:
        InvalidArgument: the host's memory holds less than what the accelerator may wait for.
        Unavailable: the packed file cannot be opened.
    """
    file = PackFile(store, mend)
    divided = host_pool(store, settings, pool, experts, sharing)
    with ExitStack() as undo:
        undo.callback(copier.close)
        memory = copier.device_memory(pool.nbytes).view(pool.slots, pool.slot_bytes)
        host = copier.host_memory(divided.nbytes)
        cold = _cold(settings, copier, host[: pool.slot_bytes], memory[0])
        tier = HostTier(file, divided, host, settings.readers)
        undo.callback(tier.close)
        lane = DeviceLane(store, memory, tier, copier, cold)
        residency = TorchResidency(store, file, lane, pool, scores, experts)
        undo.pop_all()
    return residency


def host_pool(
    store: PackedStore, settings: OffloadSettings, pool: Pool, experts: Sequence[tuple[int, ...]], sharing: int = 1
) -> HostPool:
    """Pinned memory: for all experts if they fit; at least for what can be under way at a time, be it all exact.

    That is one for each slot, and a layer's experts if the CPU may compute with them meanwhile.

    Raises:
        InvalidArgument: fewer fit.
    """
    slot_bytes = pool.slot_bytes if store.rounded is None else store.rounded.blob_bytes
    parts = -(-pool.slot_bytes // slot_bytes)
    frame_bytes = parts * slot_bytes
    here = max(map(len, experts)) if settings.cold == "soonest" else 0
    everything = sum(map(len, experts))
    if store.rounded is not None:
        everything += here  # whom the CPU computes with rounded may be on the way exactly
    budget = free_memory() // 2 // sharing if settings.host_budget is None else settings.host_budget
    least = min(everything, pool.slots + here + settings.readers)
    frames = min(everything, budget // frame_bytes)
    if frames < least:
        raise InvalidArgument(
            f"experts.host_budget must hold what an accelerator may wait for: {least} experts of "
            f"{show_bytes(frame_bytes)} are {show_bytes(least * frame_bytes)}, got {show_bytes(budget)}",
            field="experts.host_budget",
        )
    return HostPool(frames, parts, slot_bytes)


def _cold(settings: OffloadSettings, copier: Copier, source: Tensor, target: Tensor) -> Cold:
    match settings.cold:
        case "copied":
            return Copied()
        case "soonest":
            copy = seconds_per_byte(copier, source, target)
            return Soonest(Costs(copy, 1 / _CPU_BANDWIDTH, 1 / _CPU_EXPANDS))
        case _:
            assert_never(settings.cold)


def seconds_per_byte(copier: Copier, source: Tensor, target: Tensor) -> float:
    """Of copies of the one to the other, measured, in memory that the copier gave and nobody uses yet."""
    copier.copy(source, target, copier.fence()).synchronize()
    started = time.perf_counter()
    events = [copier.copy(source, target, copier.fence()) for _ in range(4)]
    events[-1].synchronize()
    return (time.perf_counter() - started) / (len(events) * source.nbytes)
