"""Tables of rotary position embedding."""

import math
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from triptych.models.spec import (
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    RopeScaling,
    RopeSections,
    RopeSpec,
    YarnScaling,
)
from triptych.models.step import StepInput, TokenAxes


@dataclass(frozen=True, slots=True)
class RotaryTable:
    """Angles of every position, and which dimensions turn together.

    Attributes:
        cos: [P, dimensions/2] float32.
        sin: [P, dimensions/2] float32.
        interleaved: Whether pairs are neighbours (llama.cpp) instead of half of the dimensions apart (Hugging Face).
        axes: [dimensions/2] int64, which of a token's three positions turns each pair, where tokens have three.
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool
    axes: Tensor | None = None

    def of(self, step: StepInput) -> tuple[Tensor, Tensor, Tensor]:
        """Positions [T], and the cosines and sines that they count in: for images, a row for each token."""
        if step.axes is None or self.axes is None:
            return step.positions, self.cos, self.sin
        turned = step.axes.turned
        if id(self) not in turned:
            places = torch.arange(step.axes.values.shape[1], device=self.cos.device)
            turned[id(self)] = places, self._rows(self.cos, step.axes), self._rows(self.sin, step.axes)
        return turned[id(self)]

    def _rows(self, table: Tensor, axes: TokenAxes) -> Tensor:
        assert self.axes is not None
        rows = table[axes.values.to(table.device)]
        return rows.gather(0, self.axes.expand(1, *rows.shape[1:]))[0]


def rotary_table(
    spec: RopeSpec | None, head_dim: int, positions: int, device: torch.device, *, interleaved: bool
) -> RotaryTable:
    """Tabulates position · frequency for positions 0 … P − 1; without a spec, every angle is zero.

    Angles are float32 products, as in the code that the checkpoints were trained with: at large positions their
    rounding is part of the model.
    """
    if spec is None:
        still = torch.zeros(positions, head_dim // 2)
        return RotaryTable(still.cos().to(device), still.to(device), interleaved)
    angles = torch.arange(positions, dtype=torch.float32).unsqueeze(1) * frequencies(spec)
    factor = attention_factor(spec.scaling)
    cos, sin = angles.cos().mul_(factor), angles.sin().mul_(factor)
    axes = None if spec.sections is None else section_axes(spec.sections).to(device)
    return RotaryTable(cos.to(device), sin.to(device), interleaved or spec.neighbours, axes)


def section_axes(sections: RopeSections) -> Tensor:
    """[pairs] int64: 0, 1 or 2 for each pair of dimensions that time, height or width turns."""
    if not sections.interleaved:
        return torch.repeat_interleave(torch.arange(3), torch.tensor(sections.sizes))
    axes = torch.zeros(sum(sections.sizes), dtype=torch.int64)
    for axis in (1, 2):
        axes[axis : 3 * sections.sizes[axis] : 3] = axis
    return axes


def frequencies(spec: RopeSpec) -> Tensor:
    """[dimensions/2] float32, in turns of 2π per position: how fast each pair of dimensions turns."""
    exponents = torch.arange(0, spec.dimensions, 2, dtype=torch.int64).float() / spec.dimensions
    plain = 1.0 / (spec.theta**exponents)
    match spec.scaling:
        case None:
            return plain
        case LinearScaling(factor):
            return plain / factor
        case Llama3Scaling() as scaling:
            return _stretch(plain, scaling)
        case YarnScaling() as scaling:
            return _mixed(plain, spec, scaling)
        case LongScaling(factors):
            return 1.0 / (torch.tensor(factors, dtype=torch.float32) * spec.theta**exponents)
        case unknown:
            assert_never(unknown)


def attention_factor(scaling: RopeScaling | None) -> float:
    """Factor of cosines and sines."""
    return scaling.attention_factor if isinstance(scaling, YarnScaling | LongScaling) else 1.0


def _stretch(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Slows the low frequencies down by `factor`, as Llama 3.1 does."""
    turns = scaling.original_context * plain / (2 * math.pi)
    kept = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    return torch.lerp(plain / scaling.factor, plain, kept.clamp(0, 1))


def _mixed(plain: Tensor, spec: RopeSpec, scaling: YarnScaling) -> Tensor:
    """YaRN's ramp from kept to interpolated dimensions."""

    def dimension(turns: float) -> float:
        wavelength = scaling.original_context / (turns * 2 * math.pi)
        return spec.dimensions * math.log(wavelength) / (2 * math.log(spec.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.dimensions - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(spec.dimensions // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    kept = 1 - ramp
    return plain / scaling.factor * (1 - kept) + plain * kept
