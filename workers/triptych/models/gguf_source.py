"""A GGUF file of the llama architecture, seen as Hugging Face names and plain rows."""

import re
from functools import cached_property
from pathlib import Path

import gguf.quants
import numpy as np
import numpy.typing as npt

from triptych.core.errors import DataLoss, Unimplemented
from triptych.models.extent import ITEM_BYTES, Extent
from triptych.models.gguf_config import config_from_gguf
from triptych.models.gguf_header import GgufTensor, read_header
from triptych.models.sources import FloatArray

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
_LAYER_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


class GgufSource:
    """One GGUF file; packed rows are unpacked as they are read."""

    def __init__(self, path: Path) -> None:
        header = read_header(path)
        config = config_from_gguf(header)
        named = ((_hugging_face_name(path, name), tensor) for name, tensor in header.tensors.items())
        self.path = path
        self._stored = {name: tensor for name, tensor in named if name is not None}
        self.shapes = {name: tensor.shape for name, tensor in self._stored.items()}
        self._heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}

    def extent(self, name: str, dtype: str) -> Extent | None:
        """Where the tensor lies, if it is stored plainly as `dtype` and in Hugging Face's order of rows."""
        tensor = self._stored[name]
        if tensor.type.name != dtype or dtype not in ITEM_BYTES or self._interleaved_heads(tensor):
            return None
        extent = Extent(self.path, tensor.offset, tensor.shape, dtype)
        return extent if extent.aligned else None

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop) in float32.

        Raises:
            Unimplemented: packed in a way that the gguf package cannot undo.
        """
        tensor = self._stored[name]
        count = tensor.shape[0]
        raw = self._bytes[tensor.offset : tensor.offset + tensor.nbytes]
        order = self._hugging_face_order(tensor, start, stop)
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

    def _hugging_face_order(self, tensor: GgufTensor, start: int, stop: int) -> slice | npt.NDArray[np.intp]:
        """Which of llama.cpp's rows are rows [start, stop) of the Hugging Face tensor.

        Hugging Face rotates pairs half a head apart, llama.cpp neighbours: its conversion interleaved the two halves
        of each head of q and k.
        """
        heads, count = self._interleaved_heads(tensor), tensor.shape[0]
        if not heads:
            return slice(start, stop)
        if count % (2 * heads):
            raise DataLoss(f"{self.path}: tensor {tensor.name} has {count} rows for {heads} heads of even size")
        return np.arange(count).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)[start:stop]

    def _interleaved_heads(self, tensor: GgufTensor) -> int:
        """Heads whose rows llama.cpp reordered for its rotary embedding; 0 for every other tensor."""
        match = _LAYER_NAME.fullmatch(tensor.name)
        return self._heads.get(match[2], 0) if match else 0


def _hugging_face_name(path: Path, name: str) -> str | None:
    if name in _WHOLE:
        return _WHOLE[name]
    match = _LAYER_NAME.fullmatch(name)
    if match is None or match[2] not in _LAYER:
        raise Unimplemented(f"{path}: tensor {name} has no place in the llama architecture", field="model")
    return f"model.layers.{match[1]}.{_LAYER[match[2]]}.{match[3]}"
