"""A GGUF file of the llama architecture, seen as Hugging Face names and plain rows."""

import re
from functools import cached_property
from pathlib import Path
from typing import Literal

import gguf.quants
import numpy as np
import numpy.typing as npt

from triptych.core.errors import DataLoss, Unimplemented
from triptych.models.extent import ITEM_BYTES, Extent
from triptych.models.gguf_config import config_from_gguf
from triptych.models.gguf_header import GgufTensor, read_header
from triptych.models.sources import FloatArray
from triptych.models.stored import BLOCK_KINDS, StoredBlocks

_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "rope_freqs.weight": None,  # part of the configuration in Hugging Face form
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
RowOrder = Literal["hugging_face", "llama_cpp"]
_LAYER_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


class GgufSource:
    """One GGUF file; packed rows are unpacked as they are read.

    Hugging Face rotates pairs half a head apart, llama.cpp neighbours: its conversion interleaved the two halves of
    each head of q and k.

    Args:
        path: The file.
        order: Of the rows of q and k. In llama.cpp's they are used as they lie, and the rotary embedding has to be
            its own (`interleaved`).
    """

    def __init__(self, path: Path, order: RowOrder = "hugging_face") -> None:
        header = read_header(path)
        config = config_from_gguf(header)
        named = ((_hugging_face_name(path, name), tensor) for name, tensor in header.tensors.items())
        self.path = path
        self._stored = {name: tensor for name, tensor in named if name is not None}
        self.shapes = {name: tensor.shape for name, tensor in self._stored.items()}
        heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
        self._reordered = heads if order == "hugging_face" else {}

    def extent(self, name: str, dtype: str) -> Extent | None:
        """Where the tensor lies, if it is stored plainly as `dtype` and in the order of rows that is wanted."""
        tensor = self._stored[name]
        if tensor.type.name != dtype or dtype not in ITEM_BYTES or self._heads_to_reorder(tensor):
            return None
        extent = Extent(self.path, tensor.offset, tensor.shape, dtype)
        return extent if extent.aligned else None

    def blocks(self, name: str) -> StoredBlocks | None:
        """Where a matrix lies whose blocks kernels read as they are; None for every other tensor."""
        tensor = self._stored[name]
        kind = next((kind for kind in BLOCK_KINDS if kind == tensor.type.name), None)
        if kind is None or len(tensor.shape) != 2 or self._heads_to_reorder(tensor):
            return None
        outputs, inputs = tensor.shape
        return StoredBlocks(Extent(self.path, tensor.offset, (outputs, tensor.row_bytes), "U8"), kind, inputs)

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop) in float32.

        Raises:
            Unimplemented: packed in a way that the gguf package cannot undo.
        """
        tensor = self._stored[name]
        count = tensor.shape[0]
        raw = self._bytes[tensor.offset : tensor.offset + tensor.nbytes]
        order = self._places(tensor, start, stop)
        if len(tensor.shape) == 1:  # a vector is one packed row
            return self._unpacked(tensor, raw.reshape(1, -1)).reshape(count)[order]
        # Rows are packed one by one, so that reordering before unpacking is exact, and cheaper.
        return self._unpacked(tensor, raw.reshape(count, -1)[order]).reshape(stop - start, *tensor.shape[1:])

    def _unpacked(self, tensor: GgufTensor, packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        try:
            with np.errstate(all="ignore"):
                return np.asarray(gguf.quants.dequantize(packed, tensor.type), dtype=np.float32)
        except NotImplementedError:
            raise Unimplemented(
                f"{self.path}: tensor {tensor.name} is packed as {tensor.type.name}, which is not read", field="model"
            ) from None

    @cached_property
    def _bytes(self) -> npt.NDArray[np.uint8]:
        return np.memmap(self.path, mode="r")

    def _places(self, tensor: GgufTensor, start: int, stop: int) -> slice | npt.NDArray[np.intp]:
        """Which of the file's rows are rows [start, stop) in the order that is wanted."""
        heads, count = self._heads_to_reorder(tensor), tensor.shape[0]
        if not heads:
            return slice(start, stop)
        if count % (2 * heads):
            raise DataLoss(f"{self.path}: tensor {tensor.name} has {count} rows for {heads} heads of even size")
        return np.arange(count).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)[start:stop]

    def _heads_to_reorder(self, tensor: GgufTensor) -> int:
        """Heads whose rows have to be put back into Hugging Face's order; 0 where nothing is to be done."""
        match = _LAYER_NAME.fullmatch(tensor.name)
        return self._reordered.get(match[2], 0) if match else 0


def _hugging_face_name(path: Path, name: str) -> str | None:
    if name in _WHOLE:
        return _WHOLE[name]
    match = _LAYER_NAME.fullmatch(name)
    if match is None or match[2] not in _LAYER:
        raise Unimplemented(f"{path}: tensor {name} has no place in the llama architecture", field="model")
    return f"model.layers.{match[1]}.{_LAYER[match[2]]}.{match[3]}"
