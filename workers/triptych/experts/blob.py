"""One expert as one run of bytes: gate and up, then down, each part where a kernel can read it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import assert_never

import torch
from torch import Tensor

from triptych.kernels import DenseWeight, GgufWeight, Int8Weight
from triptych.kernels.compact import CompactWeight, ExpertWeight
from triptych.kernels.compact_blocks import RUN
from triptych.kernels.expert_slots import arrays

PAGE = 4096
"""That sections begin at: what a disk reads past the page cache in."""
_ALIGNED = 64


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A projection of an expert: `weight` [O, I], `bias` [O] or None."""

    weight: ExpertWeight
    bias: Tensor | None = None


Expert = tuple[Matrix, Matrix, Matrix]
"""Gate, up and down."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where a tensor lies in a blob; `offset` and `nbytes` in bytes."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    def view(self, blob: Tensor) -> Tensor:
        """It, of a blob [nbytes] uint8, on memory aligned to 64 bytes."""
        return blob[self.offset : self.offset + self.nbytes].view(self.dtype).view(self.shape)

    def before(self, nbytes: int) -> "Part":
        """It, in what is left of a blob without its first bytes."""
        return replace(self, offset=self.offset - nbytes)


@dataclass(frozen=True, slots=True)
class MatrixParts:
    """Where the tensors of a projection lie, and what they are."""

    form: str
    inputs: int
    values: Part
    scales: Part | None
    bias: Part | None

    def __iter__(self) -> Iterator[Part]:
        return (part for part in (self.values, self.scales, self.bias) if part is not None)

    @property
    def resident(self) -> int:
        """Bytes of the projection as the checkpoint's form has it, each tensor with room to be aligned."""
        if self.form == "compact":
            outputs, bias = RUN * self.values.shape[0], 0 if self.bias is None else self.bias.nbytes
            return _up_to(2 * outputs * self.inputs, _ALIGNED) + _up_to(bias, _ALIGNED)
        return sum(_up_to(part.nbytes, _ALIGNED) for part in self)

    def view(self, blob: Tensor) -> Matrix:
        """The projection in a blob."""
        values = self.values.view(blob)
        return Matrix(
            _weight(self.form, self.inputs, values, None if self.scales is None else self.scales.view(blob)),
            None if self.bias is None else self.bias.view(blob),
        )

    def before(self, nbytes: int) -> "MatrixParts":
        """See `Part.before`."""
        values, scales, bias = (
            None if part is None else part.before(nbytes) for part in (self.values, self.scales, self.bias)
        )
        assert values is not None
        return replace(self, values=values, scales=scales, bias=bias)


@dataclass(frozen=True, slots=True)
class Section:
    """Bytes of a blob that are brought in one go.

    Attributes:
        start: In the blob.
        end: Likewise.
        matrices: That lie in it; their offsets count from its beginning.
    """

    start: int
    end: int
    matrices: tuple[MatrixParts, ...]

    def of(self, blob: Tensor) -> Tensor:
        """It, of a blob."""
        return blob[self.start : self.end]


@dataclass(frozen=True)
class BlobLayout:
    """Of all experts of a layer.

    Attributes:
        gate: In the first section.
        up: In the first section, too.
        down: In the second section: what is asked for later can come later.
        first: Bytes of the first section, pages.
        nbytes: Of both, pages.
    """

    gate: MatrixParts
    up: MatrixParts
    down: MatrixParts
    first: int
    nbytes: int

    @classmethod
    def of(cls, expert: Expert) -> "BlobLayout":
        """The layout that this expert and all of its forms have."""
        gate, end = _placed(expert[0], 0)
        up, end = _placed(expert[1], end)
        first = _up_to(end, PAGE)
        down, end = _placed(expert[2], first)
        return cls(gate, up, down, first, _up_to(end, PAGE))

    @cached_property
    def sections(self) -> tuple[Section, Section]:
        """Gate and up, then down; the same ones each time, since every copy of an expert asks for them."""
        down = self.down.before(self.first)
        return Section(0, self.first, (self.gate, self.up)), Section(self.first, self.nbytes, (down,))

    @property
    def resident(self) -> int:
        """Bytes that an expert takes where all of them are in memory: what shares of a budget are shares of."""
        sections = ((self.gate, self.up), (self.down,))
        return sum(_up_to(sum(parts.resident for parts in section), PAGE) for section in sections)

    @property
    def bare(self) -> int:
        """Of `resident` the tensors alone: what a process has in memory that maps the checkpoint's."""
        return sum(parts.resident for parts in (self.gate, self.up, self.down))

    def pack(self, expert: Expert, blob: Tensor) -> None:
        """Writes an expert into blob [nbytes] uint8; bytes between parts become 0."""
        blob.zero_()
        for parts, matrix in zip((self.gate, self.up, self.down), expert, strict=True):
            for part, tensor in zip(parts, _tensors(matrix), strict=True):
                part.view(blob).copy_(tensor)

    def view(self, blob: Tensor) -> Expert:
        """The expert in a blob."""
        return self.gate.view(blob), self.up.view(blob), self.down.view(blob)


def _placed(matrix: Matrix, start: int) -> tuple[MatrixParts, int]:
    parts: list[Part | None] = []
    weight = matrix.weight
    for tensor in (*arrays(weight), matrix.bias):
        if tensor is None:
            parts.append(None)
            continue
        part = Part(start, tensor.dtype, tuple(tensor.shape))
        start = _up_to(start + part.nbytes, _ALIGNED)
        parts.append(part)
    values, scales, bias = parts
    assert values is not None
    return MatrixParts(_form(weight), weight.inputs, values, scales, bias), start


def _tensors(matrix: Matrix) -> Iterator[Tensor]:
    return (tensor for tensor in chain(arrays(matrix.weight), (matrix.bias,)) if tensor is not None)


def _form(weight: ExpertWeight) -> str:
    match weight:
        case DenseWeight():
            return "plain"
        case Int8Weight():
            return "int8"
        case CompactWeight():
            return "compact"
        case GgufWeight(kind=kind):
            return kind
        case _:
            assert_never(weight)


def _weight(form: str, inputs: int, values: Tensor, scales: Tensor | None) -> ExpertWeight:
    if form == "plain":
        return DenseWeight(values)
    if scales is not None and form == "compact":
        return CompactWeight(values, scales, inputs)
    if scales is not None:
        return Int8Weight(values, scales, inputs)
    return GgufWeight(values, form, inputs)  # type: ignore[arg-type]  # written from a GgufWeight's own kind


def _up_to(count: int, unit: int) -> int:
    return -(-count // unit) * unit
