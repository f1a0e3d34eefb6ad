"""Rotary parameters of a GGUF in Hugging Face form, including Llama 3's scaling, which a GGUF keeps as a tensor."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType

from triptych.core.errors import Unimplemented
from triptych.models.gguf_header import GgufHeader

_FACTORS = "rope_freqs.weight"
# All Llama 3 checkpoints with scaling share these; only the factor differs (8 in 3.1 and 3.3, 32 in 3.2).
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rope_parameters(header: GgufHeader, theta: float) -> dict[str, Any]:
    """What `rope_parameters` of config.json would say.

    Raises:
        Unimplemented: frequency factors that Llama 3's rule does not explain.
    """
    kind = header.metadata.get("llama.rope.scaling.type", "none")
    if kind != "none":
        return {
            "rope_type": kind,
            "rope_theta": theta,
            "factor": header.metadata.get("llama.rope.scaling.factor", 1.0),
        }
    if _FACTORS not in header.tensors:
        return {"rope_type": "default", "rope_theta": theta}
    factors = _read_factors(header)
    factor = float(factors.max())
    if not np.allclose(factors, _llama3_factors(len(factors), theta, factor), rtol=1e-4):
        raise Unimplemented(
            f"{header.path}: the frequency factors in {_FACTORS} are not those of Llama 3; no others are read",
            field="model",
        )
    return {"rope_type": "llama3", "rope_theta": theta, "factor": factor, **_LLAMA3}


def _read_factors(header: GgufHeader) -> npt.NDArray[np.float32]:
    tensor = header.tensors[_FACTORS]
    if tensor.type is not GGMLQuantizationType.F32 or len(tensor.shape) != 1:
        raise Unimplemented(
            f"{header.path}: {_FACTORS} is {tensor.type.name} of {tensor.shape}, expected a list of F32"
        )
    with header.path.open("rb") as file:
        file.seek(tensor.offset)
        return np.frombuffer(file.read(tensor.nbytes), dtype="<f4")


def _llama3_factors(count: int, theta: float, factor: float) -> npt.NDArray[np.float64]:
    """Divisors of the frequencies (arXiv:2407.21783): 1 for short waves, `factor` for long ones, a ramp between."""
    wavelength = 2 * np.pi * theta ** (np.arange(count) / count)
    low, high, context = _LLAMA3.values()
    ramp = np.clip((context / wavelength - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - ramp) / factor + ramp))
