"""Mirrors of the structs of src/residency_args.h and src/residency.cpp."""

import ctypes

_Number, _Pointer = ctypes.c_int64, ctypes.c_void_p


class RoundedArgs(ctypes.Structure):
    """Mirror of `RoundedArgs` (src/residency_rounded.h)."""

    _fields_ = (
        ("first", _Number),
        ("bytes", _Number),
        ("parts", ctypes.POINTER(_Number)),
        ("shapes", ctypes.POINTER(_Number)),
        ("is_bf16", _Number),
        ("bits", _Number),
        ("offsets", ctypes.POINTER(_Number)),
        ("checksums", ctypes.POINTER(ctypes.c_uint64)),
        ("piece", _Number),
    )


class LayerArgs(ctypes.Structure):
    """Mirror of `LayerArgs`."""

    _fields_ = (
        ("experts", _Number),
        ("first", _Number),
        ("bytes", _Number),
        ("parts", ctypes.POINTER(_Number)),
        ("gate", _Pointer),
        ("up", _Pointer),
        ("down", _Pointer),
        ("flags", _Pointer),
        ("offsets", ctypes.POINTER(_Number)),
        ("checksums", ctypes.POINTER(ctypes.c_uint64)),
        ("piece", _Number),
        ("quota", _Number),
        ("policy", _Number),
        ("values", ctypes.POINTER(ctypes.c_double)),
        ("steps", ctypes.c_double),
        ("decay", ctypes.c_double),
        ("worth", ctypes.c_double),
        ("rounded", ctypes.POINTER(RoundedArgs)),
    )


class PoolArgs(ctypes.Structure):
    """Mirror of `PoolArgs`."""

    _fields_ = (
        ("memory", _Pointer),
        ("slots", _Number),
        ("slot_bytes", _Number),
        ("file", _Number),
        ("rounded", _Number),
        ("readers", _Number),
        ("split", _Number),
        ("waited", _Pointer),
        ("layers", _Number),
        ("layer", ctypes.POINTER(LayerArgs)),
    )


class EnsureArgs(ctypes.Structure):
    """Mirror of `EnsureArgs`, and whose pool it is."""

    owner: object
    _fields_ = (("pool", _Pointer), ("layer", _Number), ("ids", _Pointer), ("tokens", _Number), ("top_k", _Number))


class WaveArgs(ctypes.Structure):
    """Mirror of `WaveArgs`, and whose pool it is."""

    owner: object
    _fields_ = (("pool", _Pointer), ("number", _Number))


class PrefetchArgs(ctypes.Structure):
    """Mirror of `PrefetchArgs`, and whose pool it is."""

    owner: object
    _fields_ = (
        ("pool", _Pointer),
        ("layer", _Number),
        ("scores", _Pointer),
        ("stride", _Number),
        ("tokens", _Number),
        ("experts", _Number),
        ("top", _Number),
    )


class CountsOut(ctypes.Structure):
    """Mirror of `Counts`."""

    layers: int
    demanded: int
    hits: int
    covered: int
    misses: int
    prefetched: int
    wasted_bytes: int
    reads: int
    read_bytes: int
    stall_ns: int
    failed_reads: int

    _fields_ = tuple(
        (name, _Number)
        for name in (
            "layers",
            "demanded",
            "hits",
            "covered",
            "misses",
            "prefetched",
            "wasted_bytes",
            "reads",
            "read_bytes",
            "stall_ns",
            "failed_reads",
        )
    )


class FailedOut(ctypes.Structure):
    """Mirror of `Failed`: `failure` is 1 for a checksum that differs, 2 for a read that failed or was short."""

    layer: int
    expert: int
    failure: int

    _fields_ = (("layer", _Number), ("expert", _Number), ("failure", _Number))


class SlotOut(ctypes.Structure):
    """A slot: `state` 0 empty, 1 loading, 2 ready; `cause` 0 demand, 1 prefetch, 2 warm."""

    state: int
    layer: int
    expert: int
    cause: int

    _fields_ = tuple((name, ctypes.c_int32) for name in ("state", "layer", "expert", "cause"))
