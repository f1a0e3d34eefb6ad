"""Random experts of every form, and files of them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from triptych.experts.blob import BlobLayout, Expert, Matrix, MatrixParts, Part
from triptych.experts.store import PackedStore, write_pack
from triptych.experts.store.packed import PIECE
from triptych.kernels import DenseWeight, GgufWeight, Int8Weight, Weight
from triptych.kernels.gguf_blocks import GGUF_BLOCKS
from triptych.kernels.weights import INPUT_TILE, OUTPUT_TILE


@dataclass(frozen=True)
class Made:
    """Experts, and the file that holds them."""

    experts: dict[tuple[int, int], Expert]
    store: PackedStore

    def read(self, layer: int, expert: int) -> Expert:
        return self.experts[layer, expert]

    @property
    def path(self) -> Path:
        return self.store.path


def bytes_of(expert: Expert) -> list[Tensor]:
    """All tensors of an expert as bytes, so that NaNs compare, too."""
    layout = BlobLayout.of(expert)
    blob = torch.empty(layout.nbytes, dtype=torch.uint8)
    layout.pack(expert, blob)
    parts: list[Part] = [part for matrix in (layout.gate, layout.up, layout.down) for part in _parts(matrix)]
    return [blob[part.offset : part.offset + part.nbytes] for part in parts]


def same(one: Expert, other: Expert) -> bool:
    pairs = zip(bytes_of(one), bytes_of(other), strict=True)
    return BlobLayout.of(one) == BlobLayout.of(other) and all(torch.equal(*pair) for pair in pairs)


def draw(form: str, hidden: int = 64, width: int = 40, *, bias: bool = False) -> Expert:
    """A random expert; of GGUF forms widths are whole blocks."""
    if form in GGUF_BLOCKS:
        block, _ = GGUF_BLOCKS[form]  # type: ignore[index]
        hidden, width = (-(-size // block) * block for size in (hidden, width))
    shapes = ((width, hidden), (width, hidden), (hidden, width))
    gate, up, down = (
        Matrix(_weight(form, *shape), torch.randn(shape[0]).bfloat16() if bias else None) for shape in shapes
    )
    return gate, up, down


def make(
    path: Path,
    *layers: tuple[str, int],
    bias: bool = False,
    piece: int = PIECE,
    hidden: int = 64,
    width: int = 40,
) -> Made:
    """A file of random experts: form and number of each layer, and bytes that have a checksum each."""
    experts = {
        (number, expert): draw(form, hidden, width, bias=bias)
        for number, (form, count) in enumerate(layers)
        for expert in range(count)
    }
    shape = [(BlobLayout.of(experts[number, 0]), count) for number, (_, count) in enumerate(layers)]
    return Made(experts, write_pack(path, shape, lambda *who: experts[who], piece=piece))


def _parts(matrix: MatrixParts) -> list[Part]:
    return [part for part in (matrix.values, matrix.scales, matrix.bias) if part is not None]


def _weight(form: str, outputs: int, inputs: int) -> Weight:
    if form == "int8":
        tiles = (-(-outputs // OUTPUT_TILE), -(-inputs // INPUT_TILE), OUTPUT_TILE, INPUT_TILE)
        return Int8Weight(torch.randint(-127, 128, tiles, dtype=torch.int8), torch.rand(outputs), inputs)
    if form in GGUF_BLOCKS:
        elements, size = GGUF_BLOCKS[form]  # type: ignore[index]
        blocks = torch.randint(0, 256, (outputs, inputs // elements * size), dtype=torch.uint8)
        return GgufWeight(blocks, form, inputs)  # type: ignore[arg-type]
    return DenseWeight(torch.randn(outputs, inputs).to(getattr(torch, form)))
