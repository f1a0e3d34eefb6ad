"""Which part of a GGUF tensor is which tensor of a Hugging Face checkpoint."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from triptych.core.errors import DataLoss, Unimplemented
from triptych.models.gguf_family import WHOLE, Family
from triptych.models.gguf_header import GgufHeader, GgufTensor
from triptych.models.gguf_rope import ROPE_TENSORS

RowOrder = Literal["hugging_face", "llama_cpp"]

_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<stem>\w+)\.(?P<ending>weight|bias)")
SINGLE_ROWS = frozenset({"ffn_gate_inp_shexp"})
"""Vectors that Hugging Face keeps as matrices of one row."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of the checkpoint within one of the file.

    Attributes:
        tensor: The file's.
        shape: The checkpoint's.
        first: Its first row; a row is the last dimension of the file's tensor.
        heads: That have to be put back into Hugging Face's order; 0 where the order is the same.
        shift: What the file added to every element.
    """

    tensor: GgufTensor
    shape: tuple[int, ...]
    first: int = 0
    heads: int = 0
    shift: float = 0.0

    @property
    def rows(self) -> slice:
        """All its rows in the file."""
        width = self.tensor.shape[-1]
        return slice(self.first, self.first + prod(self.shape) // width)

    @property
    def offset(self) -> int:
        """Its first byte in the file."""
        return self.tensor.offset + self.first * self.tensor.row_bytes

    def places(self, start: int, stop: int) -> slice | npt.NDArray[np.intp]:
        """Where in the file's order the checkpoint's rows [start, stop) are."""
        if not self.heads:
            return slice(start, stop)
        count = self.shape[0]
        return np.arange(count).reshape(self.heads, -1, 2).swapaxes(1, 2).reshape(-1)[start:stop]


def pieces_of(header: GgufHeader, family: Family, config: Mapping[str, Any], order: RowOrder) -> dict[str, Piece]:
    """All tensors of a file, by their names in a Hugging Face checkpoint.

    Args:
        header: Of the file.
        family: That it belongs to.
        config: What `config_from_gguf` made of it.
        order: That is wanted of the rows of q and k, for a family that has its own.

    Raises:
        Unimplemented: a tensor has no place in the family.
        DataLoss: rows do not fall into heads.
    """
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    reordered = heads if family.interleaved and order == "hugging_face" else {}
    found: dict[str, Piece] = {}
    for name, tensor in header.tensors.items():
        if name not in ROPE_TENSORS:
            found |= _pieces(header, family, tensor, reordered)
    return found


def _pieces(header: GgufHeader, family: Family, tensor: GgufTensor, reordered: Mapping[str, int]) -> dict[str, Piece]:
    match = _NAME.fullmatch(tensor.name)
    layer, stem, ending = match.groups() if match else (None, "", "")
    prefix = "" if layer is None else f"model.layers.{layer}."
    if (pattern := family.experts.get(stem)) is not None and layer is not None and len(tensor.shape) == 3:
        experts, rows, width = tensor.shape
        names = (f"{prefix}{pattern.format(expert)}.{ending}" for expert in range(experts))
        return {name: Piece(tensor, (rows, width), rows * expert) for expert, name in enumerate(names)}
    name = (WHOLE if layer is None else family.tensors).get(stem)
    if name is None:
        raise Unimplemented(
            f"{header.path}: tensor {tensor.name} has no place in the {family.name} architecture", field="model"
        )
    heads = reordered.get(stem, 0)
    if heads and tensor.shape[0] % (2 * heads):
        raise DataLoss(
            f"{header.path}: tensor {tensor.name} has {tensor.shape[0]} rows for {heads} heads of even size"
        )
    shape = (1, *tensor.shape) if stem in SINGLE_ROWS and len(tensor.shape) == 1 else tensor.shape
    shift = 1.0 if family.shifted_norms and stem.endswith("norm") else 0.0
    return {f"{prefix}{name}.{ending}": Piece(tensor, shape, heads=heads, shift=shift)}
