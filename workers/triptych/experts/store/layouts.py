"""The layouts of layers as JSON."""

from typing import Any

import torch

from triptych.experts.blob import BlobLayout, MatrixParts, Part
from triptych.experts.store.packed import PackedLayer

Json = dict[str, Any]

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.int32)
}


def layer_to_json(layer: PackedLayer) -> Json:
    """As `layer_from_json` takes it."""
    layout = layer.layout
    return {
        "offset": layer.offset,
        "experts": layer.experts,
        "piece": layer.piece,
        "first": layout.first,
        "nbytes": layout.nbytes,
        **{name: _matrix_to_json(getattr(layout, name)) for name in ("gate", "up", "down")},
    }


def layer_from_json(entry: Json) -> PackedLayer:
    """What `layer_to_json` wrote: the checksum of the text has been verified, so that nothing else is in it."""
    gate, up, down = (_matrix_from_json(entry[name]) for name in ("gate", "up", "down"))
    layout = BlobLayout(gate, up, down, entry["first"], entry["nbytes"])
    return PackedLayer(layout, entry["offset"], entry["experts"], entry["piece"])


def _matrix_to_json(matrix: MatrixParts) -> Json:
    parts = {"values": matrix.values, "scales": matrix.scales, "bias": matrix.bias}
    placed = {name: None if part is None else _part_to_json(part) for name, part in parts.items()}
    return {"form": matrix.form, "inputs": matrix.inputs, **placed}


def _matrix_from_json(entry: Json) -> MatrixParts:
    scales, bias = (None if entry[name] is None else _part_from_json(entry[name]) for name in ("scales", "bias"))
    return MatrixParts(entry["form"], entry["inputs"], _part_from_json(entry["values"]), scales, bias)


def _part_to_json(part: Part) -> Json:
    return {"offset": part.offset, "dtype": str(part.dtype).removeprefix("torch."), "shape": part.shape}


def _part_from_json(entry: Json) -> Part:
    return Part(entry["offset"], _DTYPES[entry["dtype"]], tuple(entry["shape"]))
