"""Tables of rotary position embedding."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.models.spec import Llama3Scaling, RopeSpec


@dataclass(frozen=True, slots=True)
class RotaryTable:
    """Angles of every position, and which dimensions turn together.

    Attributes:
        cos: [P, D/2] float32.
        sin: [P, D/2] float32.
        interleaved: Whether pairs are neighbours (llama.cpp) instead of half a head apart (Hugging Face).
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool


def rotary_table(
    spec: RopeSpec, head_dim: int, positions: int, device: torch.device, *, interleaved: bool
) -> RotaryTable:
    """Tabulates position · frequency for positions 0 … P − 1.

    Angles are float32 products, as in the code that the checkpoints were trained with: at large positions their
    rounding is part of the model.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (spec.theta**exponents)
    if spec.scaling is not None:
        frequencies = _stretch(frequencies, spec.scaling)
    angles = torch.arange(positions, dtype=torch.float32).unsqueeze(1) * frequencies
    return RotaryTable(angles.cos().to(device), angles.sin().to(device), interleaved)


def _stretch(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Slows the low frequencies down by `factor`, as Llama 3.1 does."""
    turns = scaling.original_context * frequencies / (2 * math.pi)
    kept = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    return torch.lerp(frequencies / scaling.factor, frequencies, kept.clamp(0, 1))
