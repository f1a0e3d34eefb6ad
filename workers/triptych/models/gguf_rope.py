"""Rotary parameters of a GGUF in Hugging Face form; some scalings a GGUF keeps as tensors."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType

from triptych.core.errors import Unimplemented
from triptych.models.gguf_header import GgufHeader
from triptych.models.gguf_metadata import Metadata

_FACTORS, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = frozenset({_FACTORS, _LONG, _SHORT})
"""Tensors that are part of the configuration in Hugging Face form."""

# All Llama 3 checkpoints with scaling share these; only the factor differs (8 in 3.1 and 3.3, 32 in 3.2).
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = (("attention_factor", "yarn_attn_factor"), ("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow"))
"""Fields that YaRN may have: in config.json, and in the metadata behind rope.scaling."""


def rope_parameters(metadata: Metadata, head_dim: int, theta: float = 10000.0) -> dict[str, Any]:
    """What `rope_parameters` of config.json would say.

    Args:
        metadata: Of the file.
        head_dim: Width of a head.
        theta: Base of the frequencies where the file names none.

    Raises:
        Unimplemented: frequency factors that no rule explains, or a kind of scaling that is not read.
    """
    common: dict[str, Any] = {"rope_theta": metadata.get("rope.freq_base", float, theta)}
    if (turned := metadata.get("rope.dimension_count", int, head_dim)) != head_dim:
        common["partial_rotary_factor"] = turned / head_dim
    return {**_scaling(metadata, common["rope_theta"], turned), **common}


def _scaling(metadata: Metadata, theta: float, turned: int) -> dict[str, Any]:
    header = metadata.header
    kind = metadata.get("rope.scaling.type", str, "none")
    if _LONG in header.tensors and _SHORT in header.tensors:
        return _long(metadata)
    match kind:
        case "none" if _FACTORS in header.tensors:
            return _llama3(header, theta, turned)
        case "none":
            return {"rope_type": "default"}
        case "linear":
            return {"rope_type": "linear", "factor": metadata.need("rope.scaling.factor", float)}
        case "yarn":
            return _yarn(metadata)
        case _:
            raise Unimplemented(
                f"{header.path}: rope scaling {kind!r:.40} is not read; none, linear, yarn and the factors of "
                "Llama 3 and LongRoPE are",
                field="model",
            )


def _yarn(metadata: Metadata) -> dict[str, Any]:
    rope: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": metadata.need("rope.scaling.factor", float),
        "original_max_position_embeddings": metadata.need("rope.scaling.original_context_length", int),
    }
    known = {name: f"rope.scaling.{key}" for name, key in YARN}
    return rope | {name: metadata.need(key, float) for name, key in known.items() if metadata.has(key)}


def _long(metadata: Metadata) -> dict[str, Any]:
    header = metadata.header
    return {
        "rope_type": "longrope",
        "long_factor": _read_factors(header, _LONG).tolist(),
        "short_factor": _read_factors(header, _SHORT).tolist(),
        "original_max_position_embeddings": metadata.need("rope.scaling.original_context_length", int),
    }


def _llama3(header: GgufHeader, theta: float, turned: int) -> dict[str, Any]:
    factors = _read_factors(header, _FACTORS)
    factor = float(factors.max())
    if len(factors) != turned // 2 or not np.allclose(factors, llama3_factors(turned, theta, factor), rtol=1e-4):
        raise Unimplemented(
            f"{header.path}: the frequency factors in {_FACTORS} are not those of Llama 3; no others are read",
            field="model",
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}


def _read_factors(header: GgufHeader, name: str) -> npt.NDArray[np.float32]:
    tensor = header.tensors[name]
    if tensor.type is not GGMLQuantizationType.F32 or len(tensor.shape) != 1:
        raise Unimplemented(f"{header.path}: {name} is {tensor.type.name} of {tensor.shape}, expected a list of F32")
    with header.path.open("rb") as file:
        file.seek(tensor.offset)
        return np.frombuffer(file.read(tensor.nbytes), dtype="<f4")


def llama3_factors(turned: int, theta: float, factor: float) -> npt.NDArray[np.float64]:
    """Divisors of the frequencies (arXiv:2407.21783): 1 for short waves, `factor` for long ones, a ramp between."""
    count = turned // 2
    wavelength = 2 * np.pi * theta ** (np.arange(count) / count)
    low, high, context = _LLAMA3.values()
    ramp = np.clip((context / wavelength - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - ramp) / factor + ramp))
