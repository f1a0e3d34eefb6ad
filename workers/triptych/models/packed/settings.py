"""Reads quantization_config: which way of packing a config.json speaks of."""

from collections.abc import Mapping
from typing import Any

from triptych.models.packed.awq import Awq
from triptych.models.packed.compressed import PackedIntegers
from triptych.models.packed.gptq import Gptq
from triptych.models.packed.mxfp4 import Mxfp4
from triptych.models.packed.scaled import Scaled
from triptych.models.packed.scheme import Scheme
from triptych.models.recipes.fields import Fields

_NAMES = ("quantization_config", "compression_config")
_METHODS = ("awq", "compressed-tensors", "fp8", "gptq", "mxfp4")
_FORMATS = ("dense", "int-quantized", "float-quantized", "naive-quantized", "pack-quantized", "mixed-precision")
_BLOCK = (128, 128)


def find_schemes(config: Mapping[str, Any]) -> tuple[Scheme, ...]:
    """The ways of packing that a checkpoint mixes; none where it is plain.

    Args:
        config: config.json.

    Raises:
        Unimplemented: a setting that is not read; the message names it.
        InvalidArgument: a setting that cannot be.
    """
    fields = Fields(config)
    sections = (fields, fields.section("text_config"))
    settings = next((part.section(name) for part in sections for name in _NAMES if part.has(name)), None)
    if settings is None:
        return ()
    method = settings.choice("quant_method", "", _METHODS)
    match method:
        case "gptq":
            return (_gptq(settings),)
        case "awq":
            return (_awq(settings),)
        case "fp8":
            settings.choice("fmt", "e4m3", ("e4m3",))
            return (Scaled(_block(settings, "weight_block_size") or _BLOCK),)
        case "mxfp4":
            return (Mxfp4(),)
        case _:
            return _compressed_tensors(settings)


def _gptq(settings: Fields) -> Gptq:
    settings.refuse("is_marlin_format", False)
    settings.refuse("dynamic", {})
    settings.choice("pack_dtype", "int32", ("int32",))
    written = "checkpoint_format" if settings.has("checkpoint_format") else "format"
    version = settings.choice(written, "gptq", ("gptq", "gptq_v2"))
    return Gptq(_one_of(settings, "bits", (4, 8, 2)), zero_offset=1 if version == "gptq" else 0)


def _awq(settings: Fields) -> Awq:
    for name in ("bits", "w_bit"):
        _one_of(settings, name, (4,))
    for name in ("version", "format"):
        settings.choice(name, "gemm", ("gemm", "GEMM"))
    settings.refuse("zero_point", True)
    return Awq()


def _compressed_tensors(settings: Fields) -> tuple[Scheme, ...]:
    if settings.choice("format", "dense", _FORMATS) == "dense":
        return ()
    settings.choice("quantization_status", "compressed", ("compressed",))
    settings.section("sparsity_config").choice("format", "dense", ("dense",))
    settings.refuse("transform_config", {})
    groups = settings.section("config_groups")
    blocks = [_block_of(groups.section(name)) for name in groups.names]
    chosen = next((block for block in blocks if block), _BLOCK)
    for block in blocks:
        if block not in (None, chosen):
            raise settings.unsupported("config_groups", f"with blocks of {block} and {chosen}", "blocks of one size")
    return PackedIntegers(), Scaled(chosen)


def _block_of(group: Fields) -> tuple[int, int] | None:
    """The blocks of one of the groups of modules, if its matrices have any."""
    group.choice("format", "pack-quantized", _FORMATS)
    weights = group.section("weights")
    kind = weights.choice("type", "int", ("int", "float"))
    _one_of(weights, "num_bits", (8,) if kind == "float" else (8, 4))
    weights.choice("strategy", "tensor", ("tensor", "channel", "group", "block"))
    return _block(weights, "block_structure")


def _one_of(settings: Fields, name: str, supported: tuple[int, ...]) -> int:
    """One of these numbers, the first where the field is left out."""
    value = settings.count(name, supported[0])
    if value not in supported:
        raise settings.unsupported(name, value, " or ".join(map(str, supported)))
    return value


def _block(settings: Fields, name: str) -> tuple[int, int] | None:
    """Height and width of blocks."""
    if not settings.has(name):
        return None
    height, width = settings.numbers(name, 2)
    return int(height), int(width)
