"""The tensors of a GGUF file that is written, and what each is made of."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from triptych.core.errors import DataLoss, Unimplemented
from triptych.models.gguf_family import WHOLE, Family
from triptych.models.gguf_pieces import SINGLE_ROWS
from triptych.models.sources import FloatArray

_NAME = re.compile(r"(?:model\.layers\.(?P<layer>\d+)\.)?(?P<stem>.+)\.(?P<ending>weight|bias)")
_EXPERT = re.compile(r"(?<=experts\.)\d+(?=\.)")
_ROUTER = "ffn_gate_inp"  # llama.cpp keeps the choice of experts in float32


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor of the file.

    Attributes:
        name: llama.cpp's.
        kind: How its elements are packed.
        shape: Slowest dimension first.
        parts: Tensors of the checkpoint that it holds one after the other: experts, or just one.
        heads: Whose halves it interleaves; 0 for none.
        shift: Added to every element.
    """

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    heads: int = 0
    shift: float = 0.0

    @property
    def row_bytes(self) -> int:
        """Packed size of a row."""
        elements, size = GGML_QUANT_SIZES[self.kind]
        return self.shape[-1] // elements * size

    @property
    def nbytes(self) -> int:
        """Packed size."""
        return int(np.prod(self.shape[:-1], dtype=np.int64)) * self.row_bytes

    def arranged(self, rows: FloatArray) -> FloatArray:
        """All rows of a part with llama.cpp's order and values."""
        if self.heads:
            halves = rows.reshape(self.heads, 2, -1, *rows.shape[1:])
            rows = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
        return rows + np.float32(self.shift) if self.shift else rows


def targets_of(
    shapes: Mapping[str, tuple[int, ...]], family: Family, config: Mapping[str, Any], kind: GGMLQuantizationType
) -> list[Target]:
    """All tensors of the file.

    Args:
        shapes: Of the checkpoint's tensors.
        family: That it belongs to.
        config: Its config.
        kind: How matrices are packed; vectors stay float32, and matrices whose rows do not fill blocks float16.

    Raises:
        Unimplemented: a tensor has no place in the family.
        DataLoss: experts are missing or differ in shape.
    """
    parts: dict[str, list[str]] = {}
    for name in shapes:
        if not (name == "lm_head.weight" and config["tie_word_embeddings"]):
            parts.setdefault(_llama_name(name, family), []).append(name)
    return [_target(name, sorted(own, key=_expert), shapes, family, config, kind) for name, own in parts.items()]


def _llama_name(name: str, family: Family) -> str:
    match = _NAME.fullmatch(name)
    layer, stem, ending = match.groups() if match else (None, "", "")
    table = WHOLE if layer is None else {**family.tensors, **family.experts}
    wanted = _EXPERT.sub("{}", stem)
    known = next((theirs for theirs, ours in table.items() if ours == wanted), None)
    if known is None:
        raise Unimplemented(f"tensor {name} has no place in GGUF files of the {family.name} architecture")
    return f"{known}.{ending}" if layer is None else f"blk.{layer}.{known}.{ending}"


def _expert(name: str) -> int:
    match = _EXPERT.search(name)
    return int(match[0]) if match else 0


def _target(
    name: str,
    parts: list[str],
    shapes: Mapping[str, tuple[int, ...]],
    family: Family,
    config: Mapping[str, Any],
    kind: GGMLQuantizationType,
) -> Target:
    stem, shape = name.split(".")[-2], shapes[parts[0]]
    if stem in family.experts:
        _check_experts(name, parts, (shapes[part] for part in parts))
        shape = (len(parts), *shape)
    if stem in SINGLE_ROWS:
        shape = shape[1:]
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config.get("num_key_value_heads")}
    return Target(
        name,
        _kind(stem, shape, kind),
        shape,
        tuple(parts),
        heads=(heads.get(stem) or 0) if family.interleaved else 0,
        shift=1.0 if family.shifted_norms and stem.endswith("norm") else 0.0,
    )


def _check_experts(name: str, parts: list[str], shapes: Iterable[tuple[int, ...]]) -> None:
    numbers = [_expert(part) for part in parts]
    if numbers != list(range(len(parts))):
        missing = min(set(range(numbers[-1] + 1)) - set(numbers))
        raise DataLoss(f"expert {missing} is missing among the tensors that make up {name}")
    if len(distinct := sorted(set(shapes))) > 1:
        raise DataLoss(f"experts that make up {name} have the shapes {distinct[0]} and {distinct[1]}")


def _kind(stem: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> GGMLQuantizationType:
    if len(shape) == 1 or stem.startswith(_ROUTER):
        return GGMLQuantizationType.F32
    return kind if shape[-1] % GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16
