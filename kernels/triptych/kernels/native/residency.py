"""Experts that do not all fit, in C++: decisions, readers, and kernels of a step (src/residency_pool.h)."""

import ctypes
import os
import weakref
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from triptych.kernels.expert_slots import WAITED_PLACES
from triptych.kernels.native.isa import ISAS
from triptych.kernels.native.library import Kernel, load, load_kernel
from triptych.kernels.native.residency_args import (
    CountsOut,
    EnsureArgs,
    FailedOut,
    LayerArgs,
    PoolArgs,
    PrefetchArgs,
    SlotOut,
    WaveArgs,
)
from triptych.kernels.native.residency_layers import (
    LayerExperts,
    RoundedExperts,
    checksum_args,
    layer_args,
    offset_args,
    rounded_args,
)
from triptych.kernels.native.team import submit

SOURCE = "residency"


class ResidencyPool:
    """A pool of slots and its readers. One thread computes with it; the others of the team may.

    Args:
        memory: [N, B] uint8 at a page's beginning; B whole pages.
        waited: As of `Arrivals`.
        layers: All of them.
        file: A descriptor of the packed file; the caller's, who may have it refer to another file.
        readers: Threads; without them nothing is read but by `read`.
        split: Blobs of at least so many bytes are read in pieces, by all threads, gate and up before down.
        rounded_file: As `file`, of the rounded experts; -1 where no layer has any.

    Attributes:
        layers: As they were given.
        window: Where [2] int32 are: the first expert of the wave that the step is at, and the first after it.

    Raises:
        NotAvailable: it cannot be compiled or loaded here.
    """

    def __init__(
        self,
        memory: Tensor,
        waited: Tensor,
        layers: Sequence[LayerExperts],
        file: int,
        readers: int,
        split: int,
        rounded_file: int = -1,
    ) -> None:
        assert waited.numel() == WAITED_PLACES
        self._kept = (memory, waited)
        self.layers = tuple(layers)
        self._slots = len(memory)
        self._experts = tuple(len(layer.offsets) for layer in layers)
        self._ensure: Kernel[EnsureArgs] = load_kernel(SOURCE, "residency_ensure", EnsureArgs, ISAS[-1])
        self._wave: Kernel[WaveArgs] = load_kernel(SOURCE, "residency_wave", WaveArgs, ISAS[-1])
        self._prefetch: Kernel[PrefetchArgs] = load_kernel(SOURCE, "residency_prefetch", PrefetchArgs, ISAS[-1])
        of_layers = (LayerArgs * len(layers))(*(layer_args(layer) for layer in layers))
        self._args = PoolArgs(
            memory.data_ptr(),
            *memory.shape,
            file,
            rounded_file,
            readers,
            split,
            waited.data_ptr(),
            len(layers),
            of_layers,
        )
        self._pool: int = _library().triptych_residency_open(ctypes.byref(self._args))

        self.window: int = _library().triptych_residency_window(self._pool)
        _open.add(self)

    def ensure(self, layer: int, ids: Tensor) -> None:
        """Runs it or records it: experts ids [T, K] int32 of a layer are wanted; the first wave of them is read."""
        args = EnsureArgs(self._pool, layer, ids.data_ptr(), *ids.shape)
        args.owner = self
        submit(self._ensure, args, ids)

    def wave(self, number: int) -> None:
        """Runs it or records it: the step goes on to a wave of what it wanted last, or begins again with 0."""
        args = WaveArgs(self._pool, number)
        args.owner = self
        submit(self._wave, args)

    def prefetch(self, layer: int, scores: Tensor, top: int) -> None:
        """Runs it or records it: reads who is likely by scores [T, E] float32, whose rows are contiguous."""
        args = PrefetchArgs(self._pool, layer, scores.data_ptr(), scores.stride(0), *scores.shape, top)
        args.owner = self
        submit(self._prefetch, args, scores)

    def allow(self, most: int) -> None:
        """At most so many may be awaited at once from now on; 0: nothing is read in advance."""
        _library().triptych_residency_allow(self._pool, most)

    def warm(self, layer: int, expert: int) -> None:
        """Reads an expert that the layer keeps, behind everything else."""
        _library().triptych_residency_warm(self._pool, layer, expert)

    def check(self) -> list[FailedOut]:
        """What has been asked for and could not be read; it is forgotten."""
        room = (FailedOut * sum(self._experts))()
        return list(room[: _library().triptych_residency_check(self._pool, room, len(room))])

    def rebind(
        self,
        layer: int,
        offsets: Sequence[int],
        checksums: Sequence[tuple[int, ...]],
        places: Sequence[int],
        rounded: RoundedExperts | None = None,
    ) -> None:
        """Between steps: what the layer's experts are now; `places` says where each was before, −1 for nowhere."""
        found = None if rounded is None else ctypes.byref(rounded_args(rounded))
        blobs = offset_args(offsets), checksum_args(checksums)
        _library().triptych_residency_rebind(self._pool, layer, *blobs, offset_args(places), found)

    def settle(self) -> None:
        """Waits until nothing is queued or under way."""
        _library().triptych_residency_settle(self._pool)

    def read(self) -> bool:
        """Reads what is next here and now; whether there was anything."""
        return bool(_library().triptych_residency_read(self._pool))

    def counts(self) -> CountsOut:
        """Since the beginning."""
        counts = CountsOut()
        _library().triptych_residency_counts(self._pool, ctypes.byref(counts))
        return counts

    def slots(self) -> list[SlotOut]:
        """What is in each slot."""
        found = (SlotOut * self._slots)()
        _library().triptych_residency_slots(self._pool, found)
        return list(found)

    def uses(self, layer: int) -> list[int]:
        """Steps that asked for each expert, since the beginning or the layer's last `rebind`."""
        found = (ctypes.c_int64 * self._experts[layer])()
        _library().triptych_residency_uses(self._pool, layer, found)
        return list(found)

    def trace(self, *, on: bool) -> None:
        """Remembers what is asked for from now on, or no longer."""
        _library().triptych_residency_trace(self._pool, on)

    def drain(self) -> list[tuple[int, Tensor]]:
        """What has been asked for since the last time: layer, ids [T, K] int32."""
        found = torch.empty(_library().triptych_residency_traced(self._pool), dtype=torch.int32)
        _library().triptych_residency_drain(self._pool, found.data_ptr())
        asked = []
        at = 0
        while at < len(found):
            layer, tokens, top_k = found[at : at + 3].tolist()
            at += 3 + tokens * top_k
            asked.append((layer, found[at - tokens * top_k : at].view(tokens, top_k)))
        return asked

    def forked(self) -> None:
        """In a forked child: whoever asks for experts reads them, since the threads are the parent's."""
        _library().triptych_residency_forked(self._pool)

    def close(self) -> None:
        """Ends the threads. Nothing is read afterwards, and nobody waits for anything."""
        _library().triptych_residency_close(self._pool)

    def __del__(self) -> None:
        """Recorded calls have the pool, too; now there are none."""
        if hasattr(self, "_pool"):
            _library().triptych_residency_free(self._pool)


_open: "weakref.WeakSet[ResidencyPool]" = weakref.WeakSet()


def forked() -> None:
    """What a forked child calls: the readers of its pools are the parent's."""
    for pool in _open:
        pool.forked()


@cache
def _library() -> ctypes.CDLL:
    library = load(SOURCE, ISAS[-1])
    os.register_at_fork(after_in_child=forked)
    pool, number, pointer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
    signatures = {
        "open": ([pointer], pool),
        "close": ([pool], None),
        "free": ([pool], None),
        "forked": ([pool], None),
        "window": ([pool], pointer),
        "allow": ([pool, number], None),
        "warm": ([pool, number, number], None),
        "check": ([pool, pointer, number], number),
        "rebind": ([pool, number, pointer, pointer, pointer, pointer], None),
        "settle": ([pool], None),
        "read": ([pool], number),
        "counts": ([pool, pointer], None),
        "slots": ([pool, pointer], None),
        "uses": ([pool, number, pointer], None),
        "trace": ([pool, number], None),
        "traced": ([pool], number),
        "drain": ([pool, pointer], None),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(library, f"triptych_residency_{name}")
        function.argtypes, function.restype = arguments, result
    return library
