"""Rotary position embedding (arXiv:2104.09864), as data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions divided by `factor` (arXiv:2306.15595)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Frequency scaling of Llama 3.1 for contexts longer than it was trained on.

    Wavelengths above original_context / low_frequency are stretched by `factor`, those below
    original_context / high_frequency are kept, and in between the two are mixed.
    """

    factor: float
    low_frequency: float
    high_frequency: float
    original_context: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (arXiv:2309.00071): slow dimensions are interpolated, fast ones kept, with a ramp between.

    Attributes:
        factor: By which slow dimensions are stretched.
        beta_fast: Turns within `original_context` from which on a dimension is kept.
        beta_slow: Turns below which it is fully stretched.
        original_context: Positions before the stretch.
        truncate: The ends of the ramp are rounded to whole dimensions.
        attention_factor: Of cosines and sines.
    """

    factor: float
    beta_fast: float
    beta_slow: float
    original_context: int
    truncate: bool
    attention_factor: float


@dataclass(frozen=True, slots=True)
class LongScaling:
    """A divisor for each frequency, found by search (LongRoPE, arXiv:2402.13753).

    Attributes:
        factors: One for each pair of dimensions.
        attention_factor: Of cosines and sines.
    """

    factors: tuple[float, ...]
    attention_factor: float


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | LongScaling


@dataclass(frozen=True, slots=True)
class RopeSections:
    """Which of a token's three positions (time, height, width) turns which pair of dimensions (arXiv:2409.12191).

    Attributes:
        sizes: Pairs of each.
        interleaved: They alternate (Qwen3-VL) instead of lying one after the other.
    """

    sizes: tuple[int, int, int]
    interleaved: bool


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """How queries and keys are turned.

    Attributes:
        theta: Base of the frequencies.
        dimensions: Leading dimensions of a head that turn, even.
        scaling: What was changed for longer contexts.
        neighbours: Pairs are neighbours instead of half of the dimensions apart.
        sections: Of a model whose tokens have three positions.
    """

    theta: float
    dimensions: int
    scaling: RopeScaling | None = None
    neighbours: bool = False
    sections: RopeSections | None = None
